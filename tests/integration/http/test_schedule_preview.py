"""Requests to POST /api/v1/schedules/preview."""

import datetime as dt
from typing import Any

import pytest

from jobworker.clock import SystemClock
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.store import jobs
from jobworker.store.calendars import calendar_rows
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver
from tests.integration.http.test_schedules import create_schedule

DAILY_RULE = {"kind": "daily", "time": "02:30"}
START = "2026-03-27T12:00:00Z"


def request_preview(api: ApiDriver, **body: Any) -> Any:
    """Request a preview."""
    return api.client.post("/api/v1/schedules/preview", json={"rule": DAILY_RULE, "from": START, **body})


def get_preview(api: ApiDriver, **body: Any) -> dict[str, Any]:
    """Request a preview, check that it succeeded, and return it."""
    response = request_preview(api, **body)
    assert response.status_code == 200, response.json
    preview: dict[str, Any] = response.json
    return preview


def test_preview_lists_occurrences_in_utc_and_local_time(any_api: ApiDriver) -> None:
    preview = get_preview(any_api, zone="Europe/Berlin", count=3)
    assert [(occurrence["scheduled_for"], occurrence["local"]) for occurrence in preview["occurrences"]] == [
        ("2026-03-28T01:30:00Z", "2026-03-28T02:30:00+01:00"),
        ("2026-03-29T01:30:00Z", "2026-03-29T03:30:00+02:00"),
        ("2026-03-30T00:30:00Z", "2026-03-30T02:30:00+02:00"),
    ]
    assert [occurrence["notes"] for occurrence in preview["occurrences"]] == [
        [],
        ["02:30 does not exist in Europe/Berlin that day: 1 hour later"],
        [],
    ]
    assert (preview["in_words"], preview["warnings"]) == ("every day at 02:30 (Europe/Berlin)", [])
    assert (preview["schedule"]["name"], preview["schedule"]["job"], preview["difference"]) == (None, None, None)
    assert preview["schedule"]["misfire"] == {"policy": "fire_once", "grace": 60, "max": 100}
    assert any_api.count_rows("job_schedules") == 0


def test_preview_lists_up_to_1000_occurrences(api: ApiDriver) -> None:
    assert len(get_preview(api)["occurrences"]) == 10
    assert len(get_preview(api, count=1000, rule={"kind": "interval", "every": 60})["occurrences"]) == 1000
    assert len(get_preview(api, max_runs=4)["occurrences"]) == 4


def test_preview_of_rule_that_never_fires_has_a_warning(api: ApiDriver) -> None:
    preview = get_preview(api, rule={"kind": "once", "at": "2020-01-01T00:00:00Z"})
    assert preview["occurrences"] == []
    assert preview["warnings"] == ["it never fires: its time has passed: 2020-01-01T00:00:00+00:00"]


def test_preview_of_disabled_schedule_is_empty_with_a_warning(api: ApiDriver) -> None:
    preview = get_preview(api, enabled=False)
    assert (preview["occurrences"], preview["warnings"]) == ([], ["the schedule is disabled and has no occurrences"])


def test_preview_of_disabled_job_has_a_warning(api: ApiDriver) -> None:
    with api.database.write() as connection:
        off = JobDefinition("off", EXPORT_TASK.name, enabled=False)
        jobs.upsert(connection, off, JobOwner.API, "api", SystemClock().now())
    preview = get_preview(api, job="off", parameters={"user_id": "u"}, count=1)
    assert preview["warnings"] == ["job off is disabled: its occurrences are skipped"]
    assert [occurrence["outcome"] for occurrence in preview["occurrences"]] == ["skipped_paused"]


def test_preview_includes_run_at_start_and_initial_delay(api: ApiDriver) -> None:
    now = SystemClock().now()

    def at_start(**body: Any) -> list[dict[str, Any]]:
        often = {"rule": {"kind": "interval", "every": 3600}, "count": 2, "run_at_start": True}
        occurrences: list[dict[str, Any]] = api.client.post("/api/v1/schedules/preview", json=often | body).json[
            "occurrences"
        ]
        return occurrences

    first, second = at_start()
    assert now <= dt.datetime.fromisoformat(first["scheduled_for"]) <= SystemClock().now()
    assert (first["outcome"], first["notes"], second["notes"]) == ("expected", ["it runs at start"], [])
    [only] = at_start(max_runs=1)
    assert only["notes"] == ["it runs at start"]
    for begin in ({}, {"from": now.isoformat()}):
        [later, _] = at_start(initial_delay=86400, **begin)
        assert dt.datetime.fromisoformat(later["scheduled_for"]) > now + dt.timedelta(days=1)


def test_preview_explains_repeated_local_times_and_holidays(api: ApiDriver) -> None:
    off = {"off": {"kind": "dates", "days": {"2026-10-25": "Clocks"}}}
    body = {"zone": "Europe/Berlin", "dst": {"fold": "both"}, "from": "2026-10-24T12:00:00Z", "require": ["off"]}
    occurrences = get_preview(api, calendars=off, count=2, **body)["occurrences"]
    assert [occurrence["notes"] for occurrence in occurrences] == [
        ["Clocks (calendar off)", "02:30 comes twice in Europe/Berlin that day; this is the first"],
        ["Clocks (calendar off)", "02:30 comes twice in Europe/Berlin that day; this is the second"],
    ]


def test_preview_accepts_unsaved_calendars(api: ApiDriver) -> None:
    off = {"off": {"kind": "dates", "days": {"2026-03-29": "Inventory"}}}
    occurrences = get_preview(api, exclude=["off"], calendars=off, count=2)["occurrences"]
    assert [(occurrence["outcome"], occurrence["reason"]) for occurrence in occurrences] == [
        ("expected", None),
        ("skipped_calendar", "within calendar off: Inventory"),
        ("expected", None),
    ]
    open_on_friday = {"office": {"kind": "business", "closed": {"2026-04-01": "All fools"}}}
    rule = {"kind": "business_day", "n": 1, "time": "09:00"}
    [first] = get_preview(api, rule=rule, calendar="office", calendars=open_on_friday, count=1)["occurrences"]
    assert first["scheduled_for"] == "2026-04-02T09:00:00Z"


def test_unsaved_calendar_overrides_the_saved_one(api: ApiDriver) -> None:
    with api.database.write() as connection:
        spec = {"kind": "dates", "days": ["2026-03-28"]}
        calendar_rows.upsert(connection, "off", spec, JobOwner.API, "api", SystemClock().now())
    saved = get_preview(api, exclude=["off"], count=1)["occurrences"]
    assert saved[0]["outcome"] == "skipped_calendar"
    unsaved = {"off": {"kind": "dates", "days": ["2026-03-30"]}}
    changed = get_preview(api, exclude=["off"], calendars=unsaved, count=1)["occurrences"]
    assert changed[0]["outcome"] == "expected"


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"rule": None}, "/rule", "null"),
        ({"rule": {"kind": "cron", "expression": "0 0 30 2 *"}}, "/rule/expression", "bad_cron"),
        ({"zone": "Mars/Base"}, "/zone", "unknown_zone"),
        ({"count": 0}, "/count", "not_allowed"),
        ({"count": 1001}, "/count", "not_allowed"),
        ({"from": "2026-03-27"}, "/from", "wrong_type"),
        ({"job": "exprot"}, "/job", "job_not_found"),
        ({"job": "export"}, "/parameters/user_id", "missing_parameter"),
        ({"exclude": ["off"]}, "/exclude/0", "unknown_calendar"),
        ({"exclude": ["off"], "calendars": {"off": {"kind": "moon"}}}, "/calendars/off/kind", "not_allowed"),
        (
            {
                "rule": {"kind": "business_day", "n": 1, "time": "09:00"},
                "calendar": "off",
                "calendars": {"off": {"kind": "dates", "days": ["2026-03-28"]}},
            },
            "/calendar",
            "not_allowed",
        ),
        ({"exclude": ["a b"], "calendars": {"a b": {"kind": "business"}}}, "/calendars/a b", "not_allowed"),
        ({"colour": "red"}, "/colour", "unknown_field"),
    ],
)
def test_invalid_preview_returns_422_with_pointer(
    api: ApiDriver, body: dict[str, Any], pointer: str, code: str
) -> None:
    response = request_preview(api, **body)
    assert response.status_code == 422
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(pointer, code)]


class TestComparison:
    """Comparison with the schedule that `schedule` names."""

    def test_comparison_lists_changed_fields_and_occurrences(self, any_api: ApiDriver) -> None:
        create_schedule(any_api, rule={"kind": "weekly", "days": ["monday", "tuesday"], "time": "02:30"})
        changes = {"rule": {"kind": "weekly", "days": ["tuesday", "friday"], "time": "02:30"}, "priority": 7}
        difference = get_preview(any_api, schedule="morning", count=3, parameters={"user_id": "all"}, **changes)[
            "difference"
        ]
        assert (difference["schedule"], difference["revision"]) == ("morning", 1)
        changed = {field["pointer"]: (field["change"], field["now"]) for field in difference["fields"]}
        assert changed["/priority"] == ("changed", 7)
        assert {name.split("/")[1] for name in changed} == {"priority", "rule"}
        # The saved schedule has three occurrences up to April 6, the new one up to April 7: their common range counts.
        assert difference["until"] == "2026-04-06T02:30:00Z"
        assert difference["comes"] == ["2026-04-03T02:30:00Z"]
        assert difference["goes"] == ["2026-03-30T02:30:00Z", "2026-04-06T02:30:00Z"]

    def test_comparison_of_equal_schedules_is_empty(self, api: ApiDriver) -> None:
        create_schedule(api, rule=DAILY_RULE)
        difference = get_preview(api, schedule="morning", parameters={"user_id": "all"})["difference"]
        assert (difference["fields"], difference["comes"], difference["goes"]) == ([], [], [])

    def test_comparison_continues_after_the_end_of_the_new_schedule(self, api: ApiDriver) -> None:
        create_schedule(api, rule=DAILY_RULE)
        changes = {"parameters": {"user_id": "all"}, "end": "2026-03-29T00:00:00Z", "count": 3}
        difference = get_preview(api, schedule="morning", **changes)["difference"]
        assert difference["goes"] == ["2026-03-29T02:30:00Z", "2026-03-30T02:30:00Z"]

    def test_comparison_with_unknown_schedule_returns_404(self, api: ApiDriver) -> None:
        response = request_preview(api, schedule="evening")
        assert (response.status_code, response.json["code"]) == (404, "schedule_not_found")
