"""Dead letters over HTTP: listed, redriven, rerun and discarded."""

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.relay.event_recorder import record_events
from jobworker.services.bulk import actions
from jobworker.store import audit, jobs
from jobworker.store.tables import core
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver

DEAD_LETTERS = "/api/v1/dead-letters"
UNKNOWN_ID = "0199aaaa-0000-7000-8000-000000000000"


def _make_error(kind: str = "ValueError", where: str = "read") -> dict[str, str]:
    return {
        "type": kind,
        "message": "no",
        "traceback": f'  File "/srv/tasks/x.py", line 3, in {where}\n    …\n{kind}: no',
    }


def _report_end(api: ApiDriver, execution: str, kind: EventKind, **data: Any) -> None:
    now = SystemClock().now()
    stream_id = events.format_stream_id((int(now.timestamp() * 1000), 0))
    with api.database.write() as connection:
        record_events(connection, [events.Event(stream_id, kind, execution, 1, {"worker": "w", **data})])


def _create_dead_letter(api: ApiDriver, kind: EventKind = EventKind.FAILED, error: Any = None, **body: Any) -> str:
    """Create an execution that failed, and return its id."""
    execution: str = api.submit_accepted({"parameters": {"user_id": "u-17"}, **body})["id"]
    _report_end(api, execution, EventKind.RUNNING, token="t")
    _report_end(api, execution, kind, error=error or _make_error(), reason="so")
    return execution


def _get_execution(api: ApiDriver, execution: str) -> dict[str, Any]:
    row: dict[str, Any] = api.client.get(f"/api/v1/executions/{execution}").json
    return row


def _list_dead_letters(api: ApiDriver, query: str = "") -> list[str]:
    return [letter["id"] for letter in api.client.get(f"{DEAD_LETTERS}?{query}").json["items"]]


def _post_action(api: ApiDriver, action: str, **body: Any) -> dict[str, Any]:
    response = api.client.post(f"{DEAD_LETTERS}/{action}", json=body)
    assert response.status_code == 200, response.json
    outcome: dict[str, Any] = response.json
    return outcome


def test_failed_or_timed_out_execution_is_an_open_dead_letter(any_api: ApiDriver) -> None:
    failed, late = (
        _create_dead_letter(any_api),
        _create_dead_letter(any_api, EventKind.TIMED_OUT, _make_error("TimeLimitExceeded")),
    )
    fine = any_api.submit_accepted()["id"]
    _report_end(any_api, fine, EventKind.SUCCEEDED, result=1)
    shown = any_api.client.get(DEAD_LETTERS).json["items"]
    assert [(letter["id"], letter["cause"], letter["state"]) for letter in shown] == [
        (late, "timed_out", "TimedOut"),
        (failed, "raised", "Failed"),
    ]
    assert shown[1]["error"] == _make_error()
    assert (shown[1]["attempt"], shown[1]["reason"], shown[1]["parameters"]) == (1, "so", {"user_id": "u-17"})
    assert shown[1]["fingerprint"] == _get_execution(any_api, failed)["fingerprint"]
    assert _get_execution(any_api, failed)["dead_letter"] == "open"
    assert [_get_execution(any_api, fine)[name] for name in ("dead_letter", "fingerprint")] == [None, None]


def test_dead_letters_are_filtered_and_paged(any_api: ApiDriver) -> None:
    with any_api.database.write() as connection:
        jobs.upsert(connection, JobDefinition("other", EXPORT_TASK.name), JobOwner.CODE, "relay", SystemClock().now())
    any_api.create_queue("mail")
    first = _create_dead_letter(any_api, queue="mail", correlation_id="c-1")
    second = _create_dead_letter(any_api, error=_make_error("KeyError"))
    third = any_api.submit_accepted(job="other")["id"]
    _report_end(any_api, third, EventKind.FAILED, error=_make_error("KeyError", "write"))
    batch = any_api.client.post(
        "/api/v1/executions/batch", json={"executions": [{"job": "other", "parameters": {"user_id": "u"}}]}
    )
    [of_batch] = batch.json["ids"]
    _report_end(any_api, of_batch, EventKind.TIMED_OUT, error=_make_error("SoftTimeLimitExceeded"))
    mark = _get_execution(any_api, second)["fingerprint"]
    middle = _get_execution(any_api, second)["finished_at"]
    for query, expected in (
        ("", [of_batch, third, second, first]),
        ("job=other", [of_batch, third]),
        ("queue=mail", [first]),
        ("state=TimedOut", [of_batch]),
        ("correlation_id=c-1", [first]),
        (f"batch_id={batch.json['batch_id']}", [of_batch]),
        ("error_type=KeyError", [third, second]),
        (f"fingerprint={mark}", [second]),
        (f"ended_before={middle}", [first]),
        (f"ended_after={middle}", [of_batch, third]),
        ("error_type=KeyError&job=other", [third]),
    ):
        assert _list_dead_letters(any_api, query) == expected, query
    page = any_api.client.get(f"{DEAD_LETTERS}?limit=3").json
    assert _list_dead_letters(any_api, f"limit=3&cursor={page['next']}") == [first]


def test_groups_count_failures_with_one_fingerprint(any_api: ApiDriver) -> None:
    many = [_create_dead_letter(any_api) for _ in range(3)]
    single = _create_dead_letter(any_api, error=_make_error("KeyError"))
    first, second = any_api.client.get(f"{DEAD_LETTERS}/groups").json["items"]
    assert (first["count"], first["example"]["id"]) == (3, many[-1])
    assert (first["first_seen"], first["last_seen"]) == tuple(
        _get_execution(any_api, many[at])["finished_at"] for at in (0, 2)
    )
    assert (second["count"], second["example"]["id"]) == (1, single)
    assert [letter["id"] for letter in any_api.client.get(first["links"]["dead_letters"]).json["items"]] == many[::-1]


def test_redrive_creates_one_new_execution_per_dead_letter(any_api: ApiDriver) -> None:
    any_api.create_queue("mail")
    old = _create_dead_letter(any_api, correlation_id="order-1", queue="mail", priority=9, time_limit=60)
    done = _post_action(any_api, "redrive", ids=[old])
    assert (done["matched"], done["done"], done["left"], done["next"]) == (1, 1, 0, None)
    [sample] = done["sample"]
    rerun, redriven = _get_execution(any_api, sample["rerun"]), _get_execution(any_api, old)
    assert (rerun["rerun_of"], rerun["state"], rerun["job_revision"]) == (old, "Queued", 1)
    for name in ("parameters", "correlation_id", "queue", "priority", "overrides", "job"):
        assert rerun[name] == redriven[name], name
    assert (redriven["dead_letter"], redriven["dead_letter_by"], redriven["state"]) == ("redriven", "api", "Failed")
    assert [row["id"] for row in any_api.client.get(redriven["links"]["reruns"]).json["items"]] == [rerun["id"]]
    [entered] = any_api.client.get(rerun["links"]["transitions"]).json["items"]
    assert (entered["actor"], entered["reason"]) == ("api", f"rerun of {old}")

    again = _post_action(any_api, "redrive", ids=[old])
    assert (again["matched"], again["done"], again["refused"]) == (0, 0, 1)
    assert again["problems"][0]["code"] == "not_a_dead_letter"
    assert _post_action(any_api, "redrive", all=True)["done"] == 0
    assert any_api.count_rows("executions") == 2


def test_redriven_execution_uses_the_current_definition(any_api: ApiDriver) -> None:
    old = _create_dead_letter(any_api)
    changed = JobDefinition("export", EXPORT_TASK.name, queue="background", priority=7, defaults={"format": "json"})
    with any_api.database.write() as connection:
        jobs.upsert(connection, changed, JobOwner.CODE, "relay", SystemClock().now())
    rerun = _get_execution(any_api, _post_action(any_api, "redrive", ids=[old])["sample"][0]["rerun"])
    assert (rerun["job_revision"], rerun["queue"], rerun["priority"]) == (2, "background", 7)
    assert rerun["parameters"] == {"user_id": "u-17", "format": "json"}


def test_redrive_patches_and_validates_parameters_per_dead_letter(any_api: ApiDriver) -> None:
    good = _create_dead_letter(any_api, parameters={"user_id": "u-1", "rows": 3, "format": "csv"})
    bad = _create_dead_letter(any_api, parameters={"user_id": "u-2", "options": {"deep": {"a": 1, "b": 2}}})
    patch = {"rows": None, "format": "json", "options": {"deep": {"a": None}}}
    done = _post_action(any_api, "redrive", all=True, patch=patch)
    assert (done["done"], done["refused"]) == (2, 0)
    parameters = {letter["id"]: _get_execution(any_api, letter["rerun"])["parameters"] for letter in done["sample"]}
    assert parameters == {
        good: {"user_id": "u-1", "format": "json", "options": {"deep": {}}},
        bad: {"user_id": "u-2", "format": "json", "options": {"deep": {"b": 2}}},
    }

    wrong, fine = _create_dead_letter(any_api, parameters={"user_id": "u-3", "rows": 5}), _create_dead_letter(any_api)
    done = _post_action(any_api, "redrive", all=True, patch={"rows": {"x": 1}})
    assert (done["done"], done["refused"], len(done["problems"])) == (0, 2, 2)
    assert (done["problems"][0]["id"], done["problems"][0]["pointer"]) == (wrong, "/parameters/rows")
    with any_api.database.write() as connection:
        jobs.upsert(
            connection, JobDefinition("other", EXPORT_TASK.name, enabled=False), JobOwner.CODE, "x", SystemClock().now()
        )
        connection.execute(sa.update(core.executions).where(core.executions.c.id == wrong).values(job="other"))
    done = _post_action(any_api, "redrive", all=True)
    assert [(problem["id"], problem["code"]) for problem in done["problems"]] == [(wrong, "job_disabled")]
    assert ([letter["id"] for letter in done["sample"]], _list_dead_letters(any_api)) == ([fine], [wrong])


def test_redrive_of_dead_letters_with_one_unique_key_runs_one(any_api: ApiDriver) -> None:
    letters = [_create_dead_letter(any_api, parameters={"user_id": user}) for user in ("u-1", "u-1", "u-2")]
    policy = {"unique": {"key": "{user_id}", "until": "finished", "on_conflict": "reject"}}
    definition = JobDefinition.from_json({"name": "export", "task": EXPORT_TASK.name, **policy})
    with any_api.database.write() as connection:
        jobs.upsert(connection, definition, JobOwner.CODE, "relay", SystemClock().now())
    done = _post_action(any_api, "redrive", all=True)
    assert (done["done"], done["refused"]) == (2, 1)
    assert [(problem["id"], problem["code"]) for problem in done["problems"]] == [(letters[1], "not_unique")]
    assert _list_dead_letters(any_api) == [letters[1]]
    refused = any_api.client.post(f"/api/v1/executions/{letters[1]}/rerun")
    assert (refused.status_code, refused.json["code"]) == (409, "not_unique")
    assert _list_dead_letters(any_api) == [letters[1]]


def test_dry_run_returns_matches_and_changes_nothing(any_api: ApiDriver) -> None:
    letters = [_create_dead_letter(any_api) for _ in range(3)]
    unmatched = _create_dead_letter(any_api, error=_make_error("KeyError"))
    for action in ("redrive", "discard"):
        done = _post_action(any_api, action, filter={"error_type": "ValueError"}, dry_run=True, limit=2)
        assert (done["dry_run"], done["matched"], done["done"], done["left"]) == (True, 3, 2, 1)
        assert [letter["id"] for letter in done["sample"]] == letters[:2]
        assert done["states"] == {"Failed": 3}
    refused = _post_action(any_api, "redrive", all=True, dry_run=True, patch={"user_id": 5})
    assert (refused["done"], refused["refused"]) == (0, 4)
    assert _list_dead_letters(any_api) == [unmatched, *letters[::-1]]
    assert any_api.count_rows("executions") == 4
    with any_api.database.read() as connection:
        assert audit.list_by_subject(connection, "dead-letters") == []


def test_redrive_rate_spreads_due_times_over_several_requests(any_api: ApiDriver) -> None:
    letters = [_create_dead_letter(any_api) for _ in range(5)]
    first = _post_action(any_api, "redrive", all=True, rate=0.5, limit=3)
    second = _post_action(any_api, "redrive", all=True, rate=0.5, cursor=first["next"])
    assert (first["done"], first["left"], second["done"], second["next"]) == (3, 2, 2, None)
    reruns = [_get_execution(any_api, letter["rerun"]) for letter in [*first["sample"], *second["sample"]]]
    due = [dt.datetime.fromisoformat(rerun["due_at"]) for rerun in reruns]
    assert [(due_at - due[0]).total_seconds() for due_at in due] == [0, 2, 4, 6, 8]
    assert [rerun["state"] for rerun in reruns] == ["Queued", *["Scheduled"] * 4]
    assert [rerun["rerun_of"] for rerun in reruns] == letters
    assert second["until"] == reruns[-1]["due_at"]


def test_redrive_processes_dead_letters_in_bounded_transactions(
    any_api: ApiDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "CHUNK_SIZE", 2)
    letters = [_create_dead_letter(any_api) for _ in range(5)]
    wrong = _create_dead_letter(any_api, parameters={"user_id": "u-9", "rows": 1})
    done = _post_action(any_api, "redrive", all=True, limit=3, note="the disk is larger now")
    assert (done["matched"], done["done"], done["left"]) == (6, 3, 3)
    any_api.update_execution(wrong, parameters={"rows": 1})
    done = _post_action(any_api, "redrive", all=True, cursor=done["next"])
    assert (done["matched"], done["done"], done["refused"], done["next"]) == (3, 2, 1, None)
    assert _list_dead_letters(any_api) == [wrong]
    with any_api.database.read() as connection:
        entries = audit.list_by_subject(connection, "dead-letters")
    assert [len(entry.after["reruns"]) for entry in entries] == [2, 1, 2]  # type: ignore[index]
    assert {entry.actor for entry in entries} == {"api"}
    assert _get_execution(any_api, letters[0])["dead_letter_note"] == "the disk is larger now"


def test_discarded_dead_letter_is_not_redriven(any_api: ApiDriver) -> None:
    single, many = _create_dead_letter(any_api), [_create_dead_letter(any_api) for _ in range(2)]
    for _ in range(2):
        shown = any_api.client.post(f"/api/v1/executions/{single}/discard", json={"note": "a test"})
        assert (shown.status_code, shown.json["dead_letter"], shown.json["dead_letter_note"]) == (
            200,
            "discarded",
            "a test",
        )
    done = _post_action(any_api, "discard", filter={"job": "export"}, note="all of them")
    assert [letter["id"] for letter in done["sample"]] == many
    assert _list_dead_letters(any_api) == []
    assert (_get_execution(any_api, single)["dead_letter_note"], _get_execution(any_api, single)["state"]) == (
        "a test",
        "Failed",
    )
    fine = any_api.submit_accepted()["id"]
    refused = any_api.client.post(f"/api/v1/executions/{fine}/discard")
    assert (refused.status_code, refused.json["code"]) == (409, "not_a_dead_letter")


def test_rerun_accepts_ended_executions_repeatedly(any_api: ApiDriver) -> None:
    letter, fine = _create_dead_letter(any_api), any_api.submit_accepted()["id"]
    _report_end(any_api, fine, EventKind.SUCCEEDED, result=1)
    for old in (letter, fine, fine, letter):
        rerun = any_api.client.post(f"/api/v1/executions/{old}/rerun", json={"patch": {"format": "json"}})
        assert (rerun.status_code, rerun.json["rerun_of"]) == (202, old)
        assert rerun.json["parameters"] == {"user_id": "u-17", "format": "json"}
        assert rerun.headers["Location"] == rerun.json["links"]["self"]
    assert _get_execution(any_api, letter)["dead_letter"] == "redriven"
    early = any_api.client.post(f"/api/v1/executions/{rerun.json['id']}/rerun")
    assert (early.status_code, early.json["code"]) == (409, "not_finished")
    wrong = any_api.client.post(f"/api/v1/executions/{fine}/rerun", json={"patch": {"format": "xml"}})
    assert (wrong.status_code, wrong.json["errors"][0]["pointer"]) == (422, "/parameters/format")
    assert any_api.client.post(f"/api/v1/executions/{UNKNOWN_ID}/rerun").status_code == 404


def test_decision_on_a_dead_letter_survives_later_reports(any_api: ApiDriver) -> None:
    old = _create_dead_letter(any_api)
    _post_action(any_api, "discard", ids=[old])
    _report_end(any_api, old, EventKind.TIMED_OUT, error=_make_error("TimeLimitExceeded"))
    _report_end(any_api, old, EventKind.LOST)
    assert _get_execution(any_api, old)["dead_letter"] == "discarded"


@pytest.mark.parametrize("action", ["dead-letters/redrive", "dead-letters/discard", "executions/cancel"])
@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "/filter", "missing"),
        ({"filter": {}}, "/filter", "missing"),
        ({"all": False}, "/filter", "missing"),
        ({"ids": []}, "/filter", "missing"),
        ({"filter": {"job": "x"}, "all": True}, "/all", "ambiguous"),
        ({"filter": {"job": "x"}, "ids": [UNKNOWN_ID]}, "/filter", "ambiguous"),
        ({"ids": [UNKNOWN_ID, "x"]}, "/ids/1", "not_allowed"),
        ({"ids": [UNKNOWN_ID] * 10_001}, "/ids", "not_allowed"),
        ({"all": True, "limit": 0}, "/limit", "not_allowed"),
        ({"all": True, "limit": 10_001}, "/limit", "not_allowed"),
        ({"all": True, "cursor": "x"}, "cursor", "invalid_cursor"),
        ({"all": 1}, "/all", "wrong_type"),
        ({"filter": {"job": ""}}, "/filter/job", "not_allowed"),
        ({"filter": {"jobs": "x"}}, "/filter/jobs", "unknown_field"),
        ({"filter": {"state": "Succeeded"}}, "/filter/state", "not_allowed"),
        ({"filter": {"created_after": "2026-01-01T00:00:00"}}, "/filter/created_after", "naive_time"),
    ],
)
def test_ambiguous_selection_returns_422_with_pointer(
    api: ApiDriver, action: str, body: dict[str, Any], pointer: str, code: str
) -> None:
    response = api.client.post(f"/api/v1/{action}", json=body)
    assert response.status_code == 422
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(pointer, code)]


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"patch": []}, "/patch", "wrong_type"),
        ({"patch": "x"}, "/patch", "wrong_type"),
        ({"rate": 0}, "/rate", "not_allowed"),
        ({"rate": -1}, "/rate", "not_allowed"),
        ({"rate": "fast"}, "/rate", "not_allowed"),
        ({"note": ""}, "/note", "not_allowed"),
        ({"note": "x" * 1001}, "/note", "not_allowed"),
        ({"note": "\x1b[8m"}, "/note", "not_allowed"),
    ],
)
def test_invalid_redrive_options_return_422_with_pointer(
    api: ApiDriver, body: dict[str, Any], pointer: str, code: str
) -> None:
    response = api.client.post(f"{DEAD_LETTERS}/redrive", json={"all": True, **body})
    assert response.status_code == 422
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(pointer, code)]


def test_redrive_reports_unknown_ids_and_continues(any_api: ApiDriver) -> None:
    letter, fine = _create_dead_letter(any_api), any_api.submit_accepted()["id"]
    done = _post_action(any_api, "redrive", ids=[UNKNOWN_ID, fine, letter])
    assert (done["done"], done["refused"]) == (1, 2)
    assert [(problem["id"], problem["code"]) for problem in done["problems"]] == [
        (UNKNOWN_ID, "execution_not_found"),
        (fine, "not_a_dead_letter"),
    ]
