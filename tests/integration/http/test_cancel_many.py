"""Cancellation by filter: all unfinished executions, and no others."""

from typing import Any

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import audit
from tests.integration.http.conftest import ApiDriver


def _cancel_many(api: ApiDriver, **body: Any) -> dict[str, Any]:
    response = api.client.post("/api/v1/executions/cancel", json=body)
    assert response.status_code == 200, response.json
    found: dict[str, Any] = response.json
    return found


def _get_execution(api: ApiDriver, execution: str) -> dict[str, Any]:
    found: dict[str, Any] = api.client.get(f"/api/v1/executions/{execution}").json
    return found


def _create_one_of_each_state(api: ApiDriver) -> dict[str, str]:
    made = {"Scheduled": api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 3600})["id"]}
    for state in ("Queued", "Running", "Retrying", "Succeeded", "Failed"):
        made[state] = api.submit_accepted()["id"]
        if state != "Queued":
            api.enter_state(made[state], 1, state)
    return made


def test_cancel_by_filter_cancels_waiting_and_requests_stop_of_started(any_api: ApiDriver) -> None:
    made = _create_one_of_each_state(any_api)
    done = _cancel_many(any_api, filter={"job": "export"})
    assert (done["matched"], done["done"], done["refused"], done["next"]) == (4, 4, 0, None)
    assert done["states"] == {"Scheduled": 1, "Queued": 1, "Running": 1, "Retrying": 1}
    shown = {state: _get_execution(any_api, key) for state, key in made.items()}
    assert {state: row["state"] for state, row in shown.items()} == {
        **{state: state for state in made},
        "Scheduled": "Cancelled",
        "Retrying": "Cancelled",
    }
    asked = {state for state, row in shown.items() if row["cancel_requested_by"] == "api"}
    assert asked == {"Scheduled", "Queued", "Running", "Retrying"}
    assert shown["Retrying"]["finished_at"]
    last = any_api.client.get(shown["Retrying"]["links"]["transitions"]).json["items"][-1]
    assert (last["state"], last["attempt"], last["actor"], last["reason"]) == (
        "Cancelled",
        1,
        "api",
        "cancelled by api",
    )
    with any_api.database.read() as connection:
        [entry] = audit.list_by_subject(connection, "executions")
    assert entry.after is not None
    assert {len(entry.after["cancelled"]), len(entry.after["asked"])} == {2}
    # The first request is kept, and a repeated request has no effect.
    assert _cancel_many(any_api, filter={"job": "export"})["done"] == 0


def test_dry_run_returns_matches_and_changes_nothing(any_api: ApiDriver) -> None:
    made = _create_one_of_each_state(any_api)
    done = _cancel_many(any_api, all=True, dry_run=True)
    assert (done["dry_run"], done["matched"], done["done"]) == (True, 4, 4)
    assert {each["id"] for each in done["sample"]} == {
        made[state] for state in ("Scheduled", "Queued", "Running", "Retrying")
    }
    assert {state: _get_execution(any_api, key)["state"] for state, key in made.items()} == {
        state: state for state in made
    }
    assert _get_execution(any_api, made["Queued"])["cancel_requested_at"] is None


def test_filters_select_executions_to_cancel(any_api: ApiDriver) -> None:
    any_api.create_queue("mail")
    mail = any_api.submit_accepted({"parameters": {"user_id": "u"}, "queue": "mail", "delay": 60})["id"]
    other = any_api.submit_accepted({"parameters": {"user_id": "u"}, "correlation_id": "c-1", "delay": 60})["id"]
    assert [each["id"] for each in _cancel_many(any_api, filter={"queue": "mail"})["sample"]] == [mail]
    assert _get_execution(any_api, other)["state"] == ExecutionState.SCHEDULED
    assert _cancel_many(any_api, filter={"correlation_id": "c-1", "state": "Queued"})["done"] == 0
    ended = _cancel_many(any_api, ids=[mail, other])
    assert (ended["done"], [each["code"] for each in ended["problems"]]) == (1, ["not_cancellable"])


def test_cancel_many_continues_with_a_cursor(any_api: ApiDriver) -> None:
    made = [any_api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 60})["id"] for _ in range(5)]
    first = _cancel_many(any_api, all=True, limit=2)
    second = _cancel_many(any_api, all=True, limit=2, cursor=first["next"])
    third = _cancel_many(any_api, all=True, limit=2, cursor=second["next"])
    assert [(each["done"], each["left"]) for each in (first, second, third)] == [(2, 3), (2, 1), (1, 0)]
    assert {_get_execution(any_api, key)["state"] for key in made} == {"Cancelled"}
