"""Schedules over HTTP: created, read and listed."""

import datetime as dt
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.schedules.schedule import ScheduleOwner, parse
from jobworker.store import jobs, tasks
from jobworker.store.calendars import calendar_rows
from jobworker.store.schedules import schedule_rows
from jobworker.store.tables.schedules import job_schedules
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver

DAILY_RULE = {"kind": "daily", "time": "06:00"}
SCHEDULE = {"name": "morning", "job": "export", "rule": DAILY_RULE, "parameters": {"user_id": "all"}}
URL = "/api/v1/schedules/morning"
PAST_MESSAGE = "it never fires: its time has passed"


def request_schedule(api: ApiDriver, **changes: Any) -> Any:
    """Request a schedule like `SCHEDULE`."""
    return api.client.post("/api/v1/schedules", json={**SCHEDULE, **changes})


def create_schedule(api: ApiDriver, **changes: Any) -> dict[str, Any]:
    """Create a schedule and return it."""
    response = request_schedule(api, **changes)
    assert response.status_code == 201, response.json
    schedule: dict[str, Any] = response.json
    return schedule


def insert_declared_schedule(api: ApiDriver, name: str, owner: ScheduleOwner) -> None:
    """Insert a schedule that cannot be changed over HTTP."""
    now = SystemClock().now()
    with api.database.write() as connection:
        declared = parse({**SCHEDULE, "name": name})
        schedule_rows.upsert(connection, declared, owner, "code:v1", now, now + dt.timedelta(hours=1))


def set_due(api: ApiDriver, name: str, at: dt.datetime) -> None:
    """Make a schedule due at `at` and unevaluated since then."""
    table = job_schedules
    with api.database.write() as connection:
        values = {"settled_until": at - dt.timedelta(minutes=1), "next_at": at}
        connection.execute(sa.update(table).where(table.c.name == name).values(values))


def test_schedule_is_created_and_read(any_api: ApiDriver) -> None:
    created = request_schedule(
        any_api, zone="Europe/Berlin", queue="background", misfire={"policy": "catch_up", "max": 7}
    )
    assert created.status_code == 201, created.json
    assert (created.headers["Location"], created.headers["ETag"]) == (URL, '"1"')
    read = any_api.client.get(URL)
    assert (read.json, read.headers["ETag"]) == (created.json, '"1"')
    shown = read.json
    assert (shown["rule"], shown["zone"], shown["queue"]) == (DAILY_RULE, "Europe/Berlin", "background")
    assert shown["misfire"] == {"policy": "catch_up", "grace": 60.0, "max": 7}
    assert (shown["owner"], shown["state"], shown["paused"], shown["warnings"]) == ("api", "active", None, [])
    assert shown["in_words"] == "every day at 06:00 (Europe/Berlin)"
    assert any_api.client.get(f"/api/v1/schedules/{shown['id']}").json == shown


def test_schedule_shows_next_at_and_expected_by(api: ApiDriver) -> None:
    now = SystemClock().now()
    shown = create_schedule(api, rule={"kind": "interval", "every": 3600})
    following = dt.datetime.fromisoformat(shown["next_at"])
    assert now < following <= now + dt.timedelta(hours=1, seconds=10)
    assert dt.datetime.fromisoformat(shown["expected_by"]) == following + dt.timedelta(seconds=60)
    assert shown["overdue"] is False


def test_latest_date_is_accepted_as_end_but_not_as_due_time(api: ApiDriver) -> None:
    assert create_schedule(api, end="9999-12-31T23:59:59Z")["warnings"] == []
    refused = request_schedule(api, name="last", rule={"kind": "once", "at": "9999-12-31T23:59:59Z"})
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/rule/at")


def test_due_unevaluated_occurrence_causes_no_warning(api: ApiDriver) -> None:
    now = SystemClock().now()
    late = (now - dt.timedelta(seconds=30)).isoformat()
    assert create_schedule(api, rule={"kind": "once", "at": late})["warnings"] == [
        f"it never fires: its time has passed: {late}"
    ]
    set_due(api, "morning", now - dt.timedelta(seconds=30))
    assert api.client.get(URL).json["warnings"] == []


def test_disabled_or_exhausted_schedule_has_no_next_at(any_api: ApiDriver) -> None:
    assert create_schedule(any_api, enabled=False)["next_at"] is None
    spent = create_schedule(any_api, name="spent", max_runs=1, run_at_start=True)
    assert (spent["state"], spent["runs"], spent["next_at"]) == ("exhausted", 1, None)


def test_max_runs_up_to_the_current_runs_exhausts_the_schedule(any_api: ApiDriver) -> None:
    create_schedule(any_api)
    any_api.client.post(f"{URL}/fire")
    for most, state in ((1, "exhausted"), (2, "active")):
        changed = any_api.client.put(URL, json={**SCHEDULE, "max_runs": most}, headers={"If-Match": "*"}).json
        assert (changed["state"], changed["next_at"] is None) == (state, state == "exhausted")


def test_run_at_start_schedule_fires_on_creation(any_api: ApiDriver) -> None:
    shown = create_schedule(any_api, run_at_start=True)
    assert (shown["runs"], any_api.count_rows("executions")) == (1, 1)
    [row] = any_api.client.get(f"{URL}/occurrences").json["items"]
    assert (row["outcome"], row["reason"]) == ("fired", "it was created")
    any_api.client.put(URL, json={**SCHEDULE, "run_at_start": True, "priority": 7}, headers={"If-Match": "*"})
    assert any_api.count_rows("executions") == 1


def test_duplicate_schedule_name_is_rejected(api: ApiDriver) -> None:
    create_schedule(api)
    response = request_schedule(api)
    assert (response.status_code, response.json["code"]) == (409, "schedule_exists")


def test_unknown_schedule_returns_404_with_suggestions(api: ApiDriver) -> None:
    create_schedule(api)
    response = api.client.get("/api/v1/schedules/mornign")
    assert (response.status_code, response.json["code"]) == (404, "schedule_not_found")
    assert "did you mean morning?" in response.json["detail"]


def test_rule_that_never_fires_is_accepted_with_a_warning(api: ApiDriver) -> None:
    shown = create_schedule(api, rule={"kind": "once", "at": "2020-01-01T00:00:00Z"})
    assert (shown["next_at"], shown["state"], shown["expected_by"]) == (None, "exhausted", None)
    [warning] = shown["warnings"]
    assert warning.startswith("it never fires")


def test_disabled_job_causes_a_warning(api: ApiDriver) -> None:
    with api.database.write() as connection:
        now = SystemClock().now()
        jobs.upsert(connection, JobDefinition("off", EXPORT_TASK.name, enabled=False), JobOwner.API, "api", now)
    assert create_schedule(api, job="off")["warnings"] == ["job off is disabled: its occurrences are skipped"]


def test_parameters_that_became_invalid_cause_a_warning(api: ApiDriver) -> None:
    create_schedule(api)
    now = SystemClock().now()
    with api.database.write() as connection:
        tasks.upsert(connection, replace(EXPORT_TASK, parameters=(Parameter("user_id", "integer"),), updated_at=now))
    [warning] = api.client.get(URL).json["warnings"]
    assert warning.startswith("its executions fail, because job export refuses its parameters: ")
    assert "user_id" in warning


@pytest.mark.parametrize(
    ("changes", "pointer", "code", "words"),
    [
        ({"rule": {"kind": "cron", "expression": "0 0 30 2 *"}}, "/rule/expression", "bad_cron", "30"),
        ({"rule": {"kind": "cron", "expression": "*/0 * * * *"}}, "/rule/expression", "bad_cron", "*/0"),
        ({"rule": {"kind": "cron", "expression": "0 0 0 * * * 2026"}}, "/rule/expression", "bad_cron", "has 7 fields"),
        ({"rule": {}}, "/rule/kind", "missing", "kind is required"),
        ({"rule": None}, "/rule", "null", "rule must not be null"),
        ({"rule": {"kind": "rrule", "expression": ""}}, "/rule/expression", "wrong_type", "1 to"),
        ({"zone": "Mars/Base"}, "/zone", "unknown_zone", "Europe/Berlin"),
        ({"exclude": ["holidays-de"]}, "/exclude/0", "unknown_calendar", "POST /api/v1/calendars"),
        ({"calendar": "office"}, "/calendar", "not_allowed", "require"),
        ({"end": "2026-01-01T00:00:00Z", "start": "2026-02-01T00:00:00Z"}, "/end", "not_allowed", "later than start"),
        ({"misfire": {"policy": "catch_up", "max": 1_000_000}}, "/misfire/max", "not_allowed", "1 to 1000"),
        ({"job": "exprot"}, "/job", "job_not_found", "did you mean export?"),
        ({"parameters": {"user_id": 17}}, "/parameters/user_id", "wrong_type", "string"),
        ({"parameters": {}}, "/parameters/user_id", "missing_parameter", "user_id"),
        ({"parameters": {"user_id": "u", "colour": 1}}, "/parameters/colour", "unknown_parameter", "colour"),
        ({"parameters": ["u"]}, "/parameters", "wrong_type", "JSON object"),
        ({"queue": "Critical Ones"}, "/queue", "not_allowed", "such as background"),
        ({"priority": 10}, "/priority", "not_allowed", "0 to 9"),
        ({"start": "2026-01-01T00:00:00"}, "/start", "naive_time", "offset"),
        ({"overlap": "maybe"}, "/overlap", "not_allowed", "skip, queue_one"),
        ({"name": "no spaces"}, "/name", "not_allowed", "A-Z"),
        ({"colour": "red"}, "/colour", "unknown_field", "valid fields are"),
    ],
)
def test_invalid_schedule_returns_422_with_pointer(
    api: ApiDriver, changes: dict[str, Any], pointer: str, code: str, words: str
) -> None:
    response = request_schedule(api, **changes)
    assert response.status_code == 422
    [problem] = response.json["errors"]
    assert (problem["pointer"], problem["code"]) == (pointer, code), problem
    assert words in problem["message"]
    assert api.count_rows("job_schedules") == 0


def test_invalid_schedule_returns_all_problems_at_once(api: ApiDriver) -> None:
    response = request_schedule(api, job="nothing", require=["a", "b"])
    assert [error["pointer"] for error in response.json["errors"]] == ["/job", "/require/0", "/require/1"]


class TestCalendars:
    """Schedules that name calendars."""

    RULE = MappingProxyType({"kind": "business_day", "n": 1, "time": "18:00"})

    @pytest.fixture
    def office(self, any_api: ApiDriver) -> ApiDriver:
        """Driver with a business calendar and a calendar of dates."""
        now = SystemClock().now()
        with any_api.database.write() as connection:
            for name, spec in (("office", {"kind": "business"}), ("fair", {"kind": "dates", "days": ["2026-05-04"]})):
                calendar_rows.upsert(connection, name, spec, JobOwner.API, "api", now)
        return any_api

    def test_schedules_are_filtered_by_calendar(self, office: ApiDriver) -> None:
        create_schedule(office, rule=dict(self.RULE), calendar="office", exclude=["fair"])
        create_schedule(office, name="other")
        for name in ("office", "fair"):
            listed = office.client.get(f"/api/v1/schedules?calendar={name}").json["items"]
            assert [(schedule["calendar"], schedule["exclude"]) for schedule in listed] == [("office", ["fair"])]

    def test_business_day_rule_requires_a_business_calendar(self, office: ApiDriver) -> None:
        response = request_schedule(office, rule=dict(self.RULE), calendar="fair")
        [problem] = response.json["errors"]
        assert (problem["pointer"], problem["code"]) == ("/calendar", "not_allowed")

    def test_unknown_calendar_is_rejected_with_suggestions(self, office: ApiDriver) -> None:
        response = request_schedule(office, require=["offcie"])
        [problem] = response.json["errors"]
        assert problem["pointer"] == "/require/0"
        assert "did you mean office?" in problem["message"]


class TestScheduleList:
    """Requests to GET /api/v1/schedules."""

    @pytest.fixture
    def several_schedules(self, any_api: ApiDriver) -> ApiDriver:
        """Driver with four different schedules."""
        with any_api.database.write() as connection:
            definition = JobDefinition("other", EXPORT_TASK.name, defaults={"user_id": "u"})
            jobs.upsert(connection, definition, JobOwner.API, "api", SystemClock().now())
        create_schedule(any_api, name="a", job="other")
        create_schedule(any_api, name="b", enabled=False)
        create_schedule(any_api, name="c", rule={"kind": "once", "at": "2020-01-01T00:00:00Z"})
        insert_declared_schedule(any_api, "d", ScheduleOwner.CODE)
        return any_api

    def _list_names(self, api: ApiDriver, query: str = "") -> list[str]:
        response = api.client.get(f"/api/v1/schedules{query}")
        assert response.status_code == 200, response.json
        return [schedule["name"] for schedule in response.json["items"]]

    def test_schedules_are_listed_by_name_in_pages(self, several_schedules: ApiDriver) -> None:
        first = several_schedules.client.get("/api/v1/schedules?limit=3").json
        assert [schedule["name"] for schedule in first["items"]] == ["a", "b", "c"]
        assert self._list_names(several_schedules, f"?limit=3&cursor={first['next']}") == ["d"]
        assert several_schedules.client.get(f"/api/v1/schedules?job=other&cursor={first['next']}").status_code == 422

    @pytest.mark.parametrize(
        ("query", "names"),
        [
            ("?job=other", ["a"]),
            ("?owner=code", ["d"]),
            ("?owner=api&state=active", ["a"]),
            ("?state=disabled", ["b"]),
            ("?state=exhausted", ["c"]),
            ("?state=paused", []),
            ("?overdue=true", []),
            ("?calendar=holidays", []),
        ],
    )
    def test_filters_are_combined(self, several_schedules: ApiDriver, query: str, names: list[str]) -> None:
        assert self._list_names(several_schedules, query) == names

    def test_unevaluated_schedule_is_overdue(self, several_schedules: ApiDriver) -> None:
        now = SystemClock().now()
        for name, late in (("a", 61), ("b", 600), ("d", 30)):
            set_due(several_schedules, name, now - dt.timedelta(seconds=late))
        assert self._list_names(several_schedules, "?overdue=true") == ["a"]
        shown = several_schedules.client.get("/api/v1/schedules/a").json
        assert shown["overdue"] is True

    @pytest.mark.parametrize("query", ["?state=sleeping", "?owner=me", "?overdue=false", "?colour=red"])
    def test_invalid_filters_return_422(self, api: ApiDriver, query: str) -> None:
        assert api.client.get(f"/api/v1/schedules{query}").status_code == 422
