"""POST /api/v1/schedules/{name}/backfill."""

import datetime as dt
from typing import Any

import pytest

from jobworker.clock import SystemClock
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.services.schedules import backfill
from jobworker.store import jobs
from jobworker.store.calendars import calendar_rows
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver
from tests.integration.http.test_occurrences import URL, insert_occurrences, list_occurrences
from tests.integration.http.test_schedules import create_schedule, set_due

#: Five days; the occurrence rows of the tests begin with the second day.
RANGE = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-06T00:00:00Z"}
NO_OUTCOMES = {"fired": 0, "forbidden": 0, "pending": 0, "duplicate": 0}


def request_backfill(api: ApiDriver, **body: Any) -> Any:
    """Request a backfill of five days."""
    return api.client.post(f"{URL}/backfill", json={**RANGE, **body})


def list_days(occurrences: list[dict[str, Any]]) -> list[int]:
    """Return the days of March of these occurrences."""
    return [dt.datetime.fromisoformat(occurrence["scheduled_for"]).day for occurrence in occurrences]


def test_backfill_creates_executions_for_occurrences_without_one(any_api: ApiDriver) -> None:
    create_schedule(any_api)
    insert_occurrences(any_api, (0, "fired"), (1, "missed"), (2, "skipped_paused"))
    response = request_backfill(any_api)
    assert response.status_code == 202, response.json
    done = response.json
    assert (done["count"], done["left_out"]) == (4, {**NO_OUTCOMES, "fired": 1})
    assert list_days(done["occurrences"]) == [1, 3, 4, 5]
    assert [occurrence["was"] for occurrence in done["occurrences"]] == [None, "missed", "skipped_paused", None]
    batch = any_api.client.get(done["links"]["batch"]).json
    assert (batch["kind"], batch["name"], batch["total"]) == ("backfill", "backfill of morning", 4)
    ledger = list_occurrences(any_api)
    assert {occurrence["outcome"] for occurrence in ledger} == {"fired"}
    assert [occurrence["reason"] for occurrence in ledger] == ["backfill by api"] * 3 + [None, "backfill by api"]
    execution = any_api.client.get(f"/api/v1/executions/{ledger[0]['execution_id']}").json
    assert (execution["scheduled_for"], execution["batch_id"]) == ("2026-03-05T06:00:00Z", done["batch_id"])
    assert execution["parameters"]["user_id"] == "all"
    again = request_backfill(any_api)
    assert (again.status_code, again.json["count"], again.json["batch_id"]) == (200, 0, None)
    assert any_api.count_rows("executions") == 4
    assert any_api.client.get(URL).json["runs"] == 0


def test_dry_run_returns_the_backfill_and_writes_nothing(any_api: ApiDriver) -> None:
    create_schedule(any_api)
    insert_occurrences(any_api, (0, "fired"), (1, "missed"))
    response = request_backfill(any_api, dry_run=True, order="newest_first")
    assert response.status_code == 200
    assert (response.json["dry_run"], response.json["count"], response.json["batch_id"]) == (True, 4, None)
    assert list_days(response.json["occurrences"]) == [5, 4, 3, 1]
    assert any_api.count_rows("executions") == any_api.count_rows("batches") == 0
    assert any_api.count_rows("occurrences") == 2


def test_backfill_lanes_wait_for_earlier_executions(any_api: ApiDriver) -> None:
    create_schedule(any_api)
    done = request_backfill(any_api, order="newest_first", concurrency=2).json
    ids = [occurrence["execution_id"] for occurrence in done["occurrences"]]
    assert list_days(done["occurrences"]) == [5, 4, 3, 2, 1]
    assert ids == sorted(ids)
    states, waits = [], []
    for execution_id in ids:
        states.append(any_api.client.get(f"/api/v1/executions/{execution_id}").json["state"])
        parents = any_api.client.get(f"/api/v1/executions/{execution_id}/dependencies").json["items"]
        waits.append([(parent["execution_id"], parent["on"]) for parent in parents])
    assert states == ["Queued", "Queued", "Waiting", "Waiting", "Waiting"]
    assert waits == [[], [], [(ids[0], "any")], [(ids[1], "any")], [(ids[2], "any")]]


def test_backfill_range_is_half_open(api: ApiDriver) -> None:
    create_schedule(api)
    body = {"from": "2026-03-01T06:00:00Z", "to": "2026-03-03T06:00:00Z"}
    assert list_days(request_backfill(api, dry_run=True, **body).json["occurrences"]) == [1, 2]


def test_backfill_applies_calendars(api: ApiDriver) -> None:
    with api.database.write() as connection:
        spec = {"kind": "dates", "days": ["2026-03-02", "2026-03-04"]}
        calendar_rows.upsert(connection, "off", spec, JobOwner.API, "api", SystemClock().now())
    create_schedule(api, exclude=["off"])
    done = request_backfill(api).json
    assert (list_days(done["occurrences"]), done["left_out"]) == ([1, 3, 5], {**NO_OUTCOMES, "forbidden": 2})


def test_backfill_leaves_pending_occurrences_out(api: ApiDriver) -> None:
    create_schedule(api, rule={"kind": "interval", "every": 3600})
    latest = SystemClock().now().replace(minute=0, second=0, microsecond=0)
    set_due(api, "morning", latest)
    body = {"from": (latest - dt.timedelta(hours=2)).isoformat(), "to": (latest + dt.timedelta(seconds=1)).isoformat()}
    done = request_backfill(api, **body).json
    assert (done["count"], done["left_out"]) == (2, {**NO_OUTCOMES, "pending": 1})


def test_backfill_parameters_override_those_of_the_schedule(api: ApiDriver) -> None:
    create_schedule(api, queue="background", priority=7)
    done = request_backfill(api, parameters={"format": "json"}).json
    execution = api.client.get(f"/api/v1/executions/{done['occurrences'][0]['execution_id']}").json
    assert execution["parameters"] == {"user_id": "all", "format": "json"}
    assert (execution["queue"], execution["priority"]) == ("background", 7)


@pytest.mark.parametrize(
    ("body", "pointer", "code", "words"),
    [
        ({"to": "2026-03-01T00:00:00Z"}, "/to", "not_allowed", "later than from"),
        ({"to": "2999-01-01T00:00:00Z"}, "/to", "not_allowed", "must not be in the future"),
        ({"from": "0001-01-01T00:00:00Z"}, "/from", "not_allowed", "1970"),
        ({"from": "2026-03-01"}, "/from", "wrong_type", "RFC 3339"),
        ({"order": "random"}, "/order", "not_allowed", "oldest_first"),
        ({"concurrency": 0}, "/concurrency", "not_allowed", "1"),
        ({"parameters": {"format": "xml"}}, "/parameters/format", "not_allowed", "csv"),
        ({"parameters": {"colour": "red"}}, "/parameters/colour", "unknown_parameter", "colour"),
        ({"colour": "red"}, "/colour", "unknown_field", "valid fields are"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_invalid_backfill_returns_422_with_pointer(
    api: ApiDriver, body: dict[str, Any], pointer: str, code: str, words: str, dry_run: bool
) -> None:
    create_schedule(api)
    response = request_backfill(api, **body, dry_run=dry_run)
    assert response.status_code == 422
    [problem] = response.json["errors"]
    assert (problem["pointer"], problem["code"]) == (pointer, code)
    assert words in problem["message"]
    assert api.count_rows("executions") == api.count_rows("occurrences") == 0


def test_backfill_range_above_the_limit_is_rejected_with_its_count(
    api: ApiDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_schedule(api)
    monkeypatch.setattr(backfill, "MAX_EXECUTIONS", 4)
    response = request_backfill(api)
    [problem] = response.json["errors"]
    assert (problem["pointer"], problem["code"]) == ("/to", "too_many")
    assert problem["message"] == "the range has 5 occurrences to backfill; at most 4 at a time: divide it"


def test_backfill_range_far_above_the_limit_is_rejected_uncounted(api: ApiDriver) -> None:
    create_schedule(api, rule={"kind": "interval", "every": 1})
    response = request_backfill(api, dry_run=True)
    assert "more than 50000 occurrences" in response.json["detail"]


def test_backfill_of_disabled_job_is_rejected(api: ApiDriver) -> None:
    with api.database.write() as connection:
        definition = JobDefinition("off", EXPORT_TASK.name, enabled=False)
        jobs.upsert(connection, definition, JobOwner.API, "api", SystemClock().now())
    create_schedule(api, job="off")
    response = request_backfill(api)
    assert (response.status_code, response.json["code"]) == (409, "job_disabled")
    assert request_backfill(api, dry_run=True).json["detail"] == response.json["detail"]


class TestUnique:
    """Jobs whose executions have a unique key."""

    def _create_job(self, api: ApiDriver, on_conflict: str) -> None:
        body = {"name": "single", "task": EXPORT_TASK.name, "unique": {"until": "finished", "on_conflict": on_conflict}}
        assert api.client.post("/api/v1/jobs", json=body).status_code == 201
        create_schedule(api, job="single")

    def test_backfill_with_on_conflict_return_creates_one_execution(self, any_api: ApiDriver) -> None:
        self._create_job(any_api, "return")
        done = request_backfill(any_api).json
        assert (list_days(done["occurrences"]), done["left_out"]) == ([1], {**NO_OUTCOMES, "duplicate": 4})
        assert any_api.count_rows("executions") == any_api.count_rows("occurrences") == 1

    def test_backfill_with_on_conflict_reject_creates_nothing(self, any_api: ApiDriver) -> None:
        self._create_job(any_api, "reject")
        response = request_backfill(any_api)
        assert (response.status_code, response.json["code"]) == (409, "not_unique")
        assert any_api.count_rows("executions") == any_api.count_rows("occurrences") == 0


def test_schedule_fires_while_its_backfill_is_unfinished(api: ApiDriver) -> None:
    create_schedule(api)
    assert request_backfill(api).json["count"] == 5
    response = api.client.post(f"{URL}/fire")
    assert response.json["occurrence"]["outcome"] == "fired"
