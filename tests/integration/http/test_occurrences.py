"""Occurrences of schedules over HTTP: recorded, upcoming, and fired by hand."""

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.store import jobs
from jobworker.store.calendars import calendar_rows
from jobworker.store.tables.schedules import job_schedules
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver
from tests.integration.http.test_schedules import create_schedule, set_due

URL = "/api/v1/schedules/morning"
FIRST_TIME = dt.datetime(2026, 3, 2, 6, tzinfo=dt.UTC)


def insert_occurrences(api: ApiDriver, *rows: tuple[int, str]) -> None:
    """Insert occurrence rows: days after `FIRST_TIME`, and the outcome."""
    schedule_id = api.client.get(URL).json["id"]
    for days, outcome in rows:
        api.insert_row(
            "occurrences",
            schedule_id=schedule_id,
            scheduled_for=FIRST_TIME + dt.timedelta(days=days),
            outcome=outcome,
            reason=f"because of {outcome}" if outcome != "fired" else None,
            execution_id=None,
            recorded_at=FIRST_TIME + dt.timedelta(days=days, seconds=1),
        )


def list_occurrences(api: ApiDriver, query: str = "") -> list[dict[str, Any]]:
    """Return the occurrences that a query selects."""
    response = api.client.get(f"{URL}/occurrences{query}")
    assert response.status_code == 200, response.json
    listed: list[dict[str, Any]] = response.json["items"]
    return listed


_INVALID_QUERIES = [
    "?from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z",
    "?upcoming=2&from=2031-03-02T00:00:00Z&to=2031-03-01T00:00:00Z",
    "?upcoming=2&outcome=missed",
    "?upcoming=2&cursor=abc",
]


class TestRecordedOccurrences:
    """Requests to GET …/occurrences."""

    def test_occurrences_are_listed_newest_first_in_pages(self, any_api: ApiDriver) -> None:
        create_schedule(any_api, zone="Europe/Berlin")
        insert_occurrences(any_api, (0, "fired"), (1, "skipped_overlap"), (2, "missed"))
        first = any_api.client.get(f"{URL}/occurrences?limit=2").json
        assert [occurrence["outcome"] for occurrence in first["items"]] == ["missed", "skipped_overlap"]
        [last] = list_occurrences(any_api, f"?limit=2&cursor={first['next']}")
        assert (last["scheduled_for"], last["local"]) == ("2026-03-02T06:00:00Z", "2026-03-02T07:00:00+01:00")
        assert first["items"][0]["reason"] == "because of missed"

    @pytest.mark.parametrize(
        ("query", "days"),
        [
            ("?from=2026-03-03T06:00:00Z", [3, 2, 1]),
            ("?to=2026-03-03T06:00:00Z", [0]),
            ("?from=2026-03-03T06:00:00Z&to=2026-03-05T06:00:00Z", [2, 1]),
            ("?outcome=missed", [3, 1]),
            ("?outcome=missed&to=2026-03-05T06:00:00Z", [1]),
        ],
    )
    def test_filters_are_combined(self, any_api: ApiDriver, query: str, days: list[int]) -> None:
        create_schedule(any_api)
        insert_occurrences(any_api, (0, "fired"), (1, "missed"), (2, "fired"), (3, "missed"))
        scheduled_times = [
            dt.datetime.fromisoformat(occurrence["scheduled_for"]) for occurrence in list_occurrences(any_api, query)
        ]
        assert [(moment - FIRST_TIME).days for moment in scheduled_times] == days

    @pytest.mark.parametrize(
        "query", ["?outcome=lost", "?from=yesterday", "?upcoming=0", "?upcoming=1001", *_INVALID_QUERIES]
    )
    def test_invalid_query_returns_422(self, api: ApiDriver, query: str) -> None:
        create_schedule(api)
        assert api.client.get(f"{URL}/occurrences{query}").status_code == 422

    def test_occurrences_of_unknown_schedule_return_404(self, api: ApiDriver) -> None:
        assert api.client.get(f"{URL}/occurrences").json["code"] == "schedule_not_found"
        assert api.client.get(f"{URL}/occurrences?upcoming=3").json["code"] == "schedule_not_found"


def test_executions_are_filtered_by_schedule(any_api: ApiDriver) -> None:
    schedule_id = create_schedule(any_api, overlap="allow")["id"]
    create_schedule(any_api, name="evening", overlap="allow")
    url = "/api/v1/executions?schedule="
    ids = [any_api.client.post(f"{URL}/fire").json["execution"]["id"] for _ in range(3)]
    evening_id = any_api.client.post("/api/v1/schedules/evening/fire").json["execution"]["id"]
    assert [execution["id"] for execution in any_api.client.get(f"{url}evening").json["items"]] == [evening_id]
    first = any_api.client.get(f"{url}morning&limit=2").json
    last = any_api.client.get(f"{url}morning&limit=2&cursor={first['next']}").json
    assert [execution["id"] for execution in [*first["items"], *last["items"]]] == ids[::-1]
    assert any_api.client.get(f"{url}morning&state=Succeeded").json["items"] == []
    assert any_api.client.delete(URL, headers={"If-Match": "*"}).status_code == 204
    assert [execution["id"] for execution in any_api.client.get(f"{url}{schedule_id}").json["items"]] == ids[::-1]
    assert any_api.client.get(f"{url}morning").json["code"] == "schedule_not_found"


class TestUpcomingOccurrences:
    """Requests to GET …/occurrences?upcoming=n."""

    def test_upcoming_occurrences_are_listed_soonest_first(self, any_api: ApiDriver) -> None:
        create_schedule(any_api, zone="Asia/Kolkata")
        upcoming = list_occurrences(any_api, "?upcoming=3")
        assert [occurrence["outcome"] for occurrence in upcoming] == ["expected"] * 3
        assert {occurrence["local"][10:] for occurrence in upcoming} == {"T06:00:00+05:30"}
        moments = [dt.datetime.fromisoformat(occurrence["scheduled_for"]) for occurrence in upcoming]
        assert moments[2] - moments[0] == dt.timedelta(days=2)
        assert upcoming[0]["scheduled_for"] == any_api.client.get(URL).json["next_at"]

    def test_upcoming_occurrences_begin_at_from(self, api: ApiDriver) -> None:
        create_schedule(api)
        [occurrence] = list_occurrences(api, "?upcoming=1&from=2031-07-01T00:00:00Z")
        assert occurrence["scheduled_for"] == "2031-07-01T06:00:00Z"
        [occurrence] = list_occurrences(api, "?upcoming=1&from=2031-07-01T06:00:00Z")
        assert occurrence["scheduled_for"] == "2031-07-01T06:00:00Z"

    def test_upcoming_occurrences_end_at_to(self, api: ApiDriver) -> None:
        create_schedule(api)
        upcoming = list_occurrences(api, "?upcoming=9&from=2031-07-01T00:00:00Z&to=2031-07-03T06:00:00Z")
        assert [occurrence["scheduled_for"] for occurrence in upcoming] == [
            "2031-07-01T06:00:00Z",
            "2031-07-02T06:00:00Z",
        ]

    def test_late_occurrence_is_still_upcoming(self, api: ApiDriver) -> None:
        create_schedule(api, rule={"kind": "interval", "every": 60})
        late = SystemClock().now().replace(second=0, microsecond=0) - dt.timedelta(minutes=10)
        set_due(api, "morning", late)
        assert dt.datetime.fromisoformat(list_occurrences(api, "?upcoming=1")[0]["scheduled_for"]) == late

    def test_upcoming_occurrence_forbidden_by_calendar_has_a_reason(self, api: ApiDriver) -> None:
        with api.database.write() as connection:
            spec = {"kind": "dates", "days": {"2031-07-02": "Company day"}}
            calendar_rows.upsert(connection, "days-off", spec, JobOwner.API, "api", SystemClock().now())
        create_schedule(api, exclude=["days-off"])
        upcoming = list_occurrences(api, "?upcoming=2&from=2031-07-01T00:00:00Z")
        assert [occurrence["outcome"] for occurrence in upcoming] == ["expected", "skipped_calendar", "expected"]
        assert upcoming[1]["reason"] == "within calendar days-off: Company day"

    def test_upcoming_occurrences_respect_pause_and_max_runs(self, api: ApiDriver) -> None:
        create_schedule(api, max_runs=2)
        with api.database.write() as connection:
            values = {
                "paused_at": SystemClock().now(),
                "paused_by": "api",
                "paused_until": dt.datetime(2031, 7, 2, tzinfo=dt.UTC),
            }
            connection.execute(sa.update(job_schedules).values(values))
        upcoming = list_occurrences(api, "?upcoming=5&from=2031-07-01T00:00:00Z")
        assert [occurrence["outcome"] for occurrence in upcoming] == ["skipped_paused", "expected", "expected"]
        assert upcoming[0]["reason"] == "paused by api until 2031-07-02T00:00:00+00:00"

    def test_disabled_schedule_has_no_upcoming_occurrences(self, api: ApiDriver) -> None:
        create_schedule(api, enabled=False)
        assert list_occurrences(api, "?upcoming=3") == []

    def test_upcoming_occurrences_of_disabled_job_have_a_reason(self, api: ApiDriver) -> None:
        create_schedule(api)
        with api.database.write() as connection:
            off = JobDefinition("export", EXPORT_TASK.name, enabled=False)
            jobs.upsert(connection, off, JobOwner.API, "api", SystemClock().now())
        upcoming = list_occurrences(api, "?upcoming=2")
        assert [(occurrence["outcome"], occurrence["reason"]) for occurrence in upcoming] == [
            ("skipped_paused", "job export is disabled")
        ] * 2

    def test_exhausted_schedule_has_no_upcoming_occurrences(self, api: ApiDriver) -> None:
        create_schedule(api, rule={"kind": "once", "at": "2020-01-01T00:00:00Z"})
        assert list_occurrences(api, "?upcoming=3") == []


class TestFire:
    """Requests to POST …/fire."""

    def test_fire_creates_an_execution_and_an_occurrence(self, any_api: ApiDriver) -> None:
        create_schedule(any_api, queue="background")
        response = any_api.client.post(f"{URL}/fire")
        assert response.status_code == 202, response.json
        execution, occurrence = response.json["execution"], response.json["occurrence"]
        assert response.headers["Location"] == f"/api/v1/executions/{execution['id']}"
        assert (execution["queue"], execution["parameters"]["user_id"]) == ("background", "all")
        assert execution["scheduled_for"] == occurrence["scheduled_for"]
        assert (occurrence["outcome"], occurrence["reason"]) == ("fired", "fired by hand by api")
        assert list_occurrences(any_api) == [occurrence]
        assert any_api.client.get(URL).json["runs"] == 1

    def test_fire_applies_the_overlap_policy_unless_overridden(self, api: ApiDriver) -> None:
        create_schedule(api)
        first = api.client.post(f"{URL}/fire").json["execution"]["id"]
        skipped = api.client.post(f"{URL}/fire")
        assert (skipped.status_code, skipped.json["execution"]) == (200, None)
        assert skipped.json["occurrence"]["outcome"] == "skipped_overlap"
        assert first in skipped.json["occurrence"]["reason"]
        beside = api.client.post(f"{URL}/fire", json={"overlap": "allow"})
        assert (beside.status_code, beside.json["execution"]["state"]) == (202, "Queued")
        waiting = api.client.post(f"{URL}/fire", json={"overlap": "queue_all"})
        assert waiting.json["execution"]["state"] == "Waiting"

    def test_fire_with_one_idempotency_key_fires_once(self, any_api: ApiDriver) -> None:
        create_schedule(any_api, overlap="allow")
        key = {"Idempotency-Key": "k-1"}
        first = any_api.client.post(f"{URL}/fire", headers=key)
        again = any_api.client.post(f"{URL}/fire", headers=key)
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json == again.json
        assert any_api.count_rows("executions") == 1
        refused = any_api.client.post(f"{URL}/fire", headers=key, json={"overlap": "skip"})
        assert (refused.status_code, refused.json["code"]) == (422, "idempotency_key_reused")

    def test_fire_of_disabled_job_is_rejected(self, api: ApiDriver) -> None:
        with api.database.write() as connection:
            definition = JobDefinition("off", EXPORT_TASK.name, enabled=False)
            jobs.upsert(connection, definition, JobOwner.API, "api", SystemClock().now())
        create_schedule(api, job="off")
        response = api.client.post(f"{URL}/fire")
        assert (response.status_code, response.json["code"]) == (409, "job_disabled")
        assert "schedule morning cannot be fired: job off is disabled" in response.json["detail"]

    @pytest.mark.parametrize("body", [{"overlap": "maybe"}, {"at": "now"}])
    def test_invalid_fire_request_returns_422(self, api: ApiDriver, body: dict[str, str]) -> None:
        create_schedule(api)
        assert api.client.post(f"{URL}/fire", json=body).status_code == 422
        assert api.count_rows("occurrences") == 0
