"""The specification of a schedule: parsing, storage and refusals."""

import dataclasses
import datetime as dt
import json
import re
from typing import Any

import pytest

from jobworker.domain.calendars.calendars import BusinessCalendar, Calendar, DateCalendar
from jobworker.domain.errors import InvalidInput
from jobworker.domain.schedules import schedule
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule, RollConvention
from jobworker.domain.schedules.schedule import MisfirePolicy, MissedOccurrencePolicy, OverlapPolicy, Schedule
from jobworker.domain.schedules.time_zones import DstPolicy, FoldPolicy, GapPolicy

MINIMAL_SCHEDULE: dict[str, Any] = {"name": "nightly", "job": "clean", "rule": {"kind": "daily", "time": "06:00"}}
FULL_SCHEDULE: dict[str, Any] = {
    "name": "month-close:1.eu",
    "job": "close_month",
    "description": "what the books need",
    "enabled": False,
    "rule": {"kind": "business_day", "n": 10, "time": "18:00", "roll": "preceding"},
    "zone": "Europe/Berlin",
    "calendar": "DE",
    "require": ["office"],
    "exclude": ["stocktaking", "strike"],
    "dst": {"gap": "skip", "fold": "both"},
    "start": "2026-01-01T00:00:00+01:00",
    "end": "2027-01-01T00:00:00Z",
    "max_runs": 12,
    "initial_delay": "PT10M",
    "run_at_start": True,
    "jitter": "PT1M30S",
    "spread": 300,
    "parameters": {"deep": {"list": [1, 2]}},
    "queue": "background",
    "priority": 9,
    "overlap": "cancel_running",
    "misfire": {"policy": "catch_up", "grace": "PT5M", "max": 7},
    "on_resume": "fire_once",
    "pause_after_failures": 3,
}


def test_schedule_fields_all_parsed() -> None:
    assert schedule.parse(FULL_SCHEDULE) == Schedule(
        "month-close:1.eu",
        "close_month",
        BusinessDayRule(10, dt.time(18), RollConvention.PRECEDING),
        "Europe/Berlin",
        "what the books need",
        False,
        "DE",
        ("office",),
        ("stocktaking", "strike"),
        DstPolicy(GapPolicy.SKIP, FoldPolicy.BOTH),
        dt.datetime(2025, 12, 31, 23, tzinfo=dt.UTC),
        dt.datetime(2027, 1, 1, tzinfo=dt.UTC),
        12,
        600.0,
        True,
        90.0,
        300.0,
        {"deep": {"list": [1, 2]}},
        "background",
        9,
        OverlapPolicy.CANCEL_RUNNING,
        MisfirePolicy(MissedOccurrencePolicy.CATCH_UP, 300.0, 7),
        MissedOccurrencePolicy.FIRE_ONCE,
        3,
    )


def test_absent_schedule_fields_have_defaults() -> None:
    parsed = schedule.parse(MINIMAL_SCHEDULE)
    assert parsed == Schedule("nightly", "clean", parsed.rule)
    assert parsed.overlap is OverlapPolicy.SKIP
    assert parsed.misfire == MisfirePolicy(MissedOccurrencePolicy.FIRE_ONCE, 60.0, 100)
    assert parsed.on_resume is MissedOccurrencePolicy.SKIP
    nulls = {field.name: None for field in dataclasses.fields(Schedule)}
    assert schedule.parse({**nulls, **MINIMAL_SCHEDULE}) == parsed


@pytest.mark.parametrize("fields", [MINIMAL_SCHEDULE, FULL_SCHEDULE])
def test_schedule_json_round_trip(fields: dict[str, Any]) -> None:
    parsed = schedule.parse(fields)
    kept = json.loads(json.dumps(parsed.to_json()))
    assert schedule.parse(kept) == parsed
    assert schedule.load_schedule(kept) == parsed
    assert set(kept) == {field.name for field in dataclasses.fields(Schedule)}


def test_stored_schedule_may_omit_defaults() -> None:
    assert schedule.load_schedule(MINIMAL_SCHEDULE) == schedule.parse(MINIMAL_SCHEDULE)


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"name": None}, "/name", "missing"),
        ({"name": "a b"}, "/name", "not_allowed"),
        ({"name": "n" * 129}, "/name", "wrong_type"),
        ({"job": None}, "/job", "missing"),
        ({"job": "über"}, "/job", "not_allowed"),
        ({"rule": None}, "/rule", "missing"),
        ({"rule": {}}, "/rule/kind", "missing"),
        ({"rule": []}, "/rule", "wrong_type"),
        ({"rule": {"kind": "daily"}}, "/rule/time", "missing"),
        ({"zone": "Mars/Olympus"}, "/zone", "unknown_zone"),
        ({"zone": "../etc/passwd"}, "/zone", "unknown_zone"),
        ({"zone": "localtime"}, "/zone", "unknown_zone"),
        ({"zone": ["UTC"]}, "/zone", "wrong_type"),
        ({"description": "x" * 1001}, "/description", "wrong_type"),
        ({"enabled": "yes"}, "/enabled", "wrong_type"),
        ({"calendar": "DE"}, "/calendar", "not_allowed"),
        ({"require": "office"}, "/require", "wrong_type"),
        ({"exclude": [5]}, "/exclude", "wrong_type"),
        ({"exclude": ["a"] * 21}, "/exclude", "wrong_type"),
        ({"dst": "skip"}, "/dst", "wrong_type"),
        ({"dst": {"gap": "twice"}}, "/dst/gap", "not_allowed"),
        ({"dst": {"fold": "never"}}, "/dst/fold", "not_allowed"),
        ({"dst": {"spring": "skip"}}, "/dst/spring", "unknown_field"),
        ({"start": "2026-01-01"}, "/start", "naive_time"),
        ({"end": "soon"}, "/end", "wrong_type"),
        ({"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, "/end", "not_allowed"),
        ({"start": "2026-01-01T01:00:00+01:00", "end": "2026-01-01T00:00:00Z"}, "/end", "not_allowed"),
        ({"max_runs": 0}, "/max_runs", "not_allowed"),
        ({"initial_delay": -1}, "/initial_delay", "not_allowed"),
        ({"run_at_start": 1}, "/run_at_start", "wrong_type"),
        ({"jitter": "P1Y"}, "/jitter", "wrong_type"),
        ({"spread": 86401}, "/spread", "not_allowed"),
        ({"parameters": []}, "/parameters", "wrong_type"),
        ({"queue": "no spaces"}, "/queue", "not_allowed"),
        ({"priority": 10}, "/priority", "not_allowed"),
        ({"overlap": "explode"}, "/overlap", "not_allowed"),
        ({"misfire": {"policy": "panic"}}, "/misfire/policy", "not_allowed"),
        ({"misfire": {"policy": "catch_up", "max": 1_000_000}}, "/misfire/max", "not_allowed"),
        ({"misfire": {"grace": "P8D"}}, "/misfire/grace", "not_allowed"),
        ({"misfire": {"patience": 5}}, "/misfire/patience", "unknown_field"),
        ({"on_resume": "all"}, "/on_resume", "not_allowed"),
        ({"pause_after_failures": 0}, "/pause_after_failures", "not_allowed"),
        ({"cron": "* * * * *"}, "/cron", "unknown_field"),
    ],
)
def test_invalid_schedule_field_rejected_with_pointer(change: dict[str, Any], pointer: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        schedule.parse({**MINIMAL_SCHEDULE, **change})
    assert [(error.pointer, error.code) for error in caught.value.errors] == [(pointer, code)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"zone": "Europe/Berln"}, "did you mean Europe/Berlin?"),
        ({"zone": "CEST+2"}, "is not an IANA time zone"),
        ({"misfire": {"max": 1_000_000}}, "max must be 1 to 1000"),
        ({"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, "end must be later than start, 2026-01-02"),
        ({"cron": "* * * * *"}, "valid fields are: calendar, description"),
    ],
)
def test_schedule_refusal_suggests_correction(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says.replace("?", r"\?")):
        schedule.parse({**MINIMAL_SCHEDULE, **change})


def test_timetable_built_with_named_calendars() -> None:
    parsed = schedule.parse(FULL_SCHEDULE)
    assert parsed.calendar_names == ("DE", "office", "stocktaking", "strike")
    counting, office, taking, strike = (
        BusinessCalendar(weekend=frozenset({4})),
        BusinessCalendar(),
        DateCalendar(),
        DateCalendar(),
    )
    calendars: dict[str, Calendar] = {"DE": counting, "office": office, "stocktaking": taking, "strike": strike}
    table = parsed.build_timetable(calendars)
    assert isinstance(table.rule, BusinessDayRule)
    assert table.rule.calendar is counting
    assert table.requires == {"office": office}
    assert list(table.excludes) == ["stocktaking", "strike"]
    with pytest.raises(KeyError):
        parsed.build_timetable({"DE": counting})
    with pytest.raises(TypeError, match="DE has no business days"):
        parsed.build_timetable({**calendars, "DE": DateCalendar()})


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "cron", "expression": "0 3 * * *", "zone": "Asia/Kolkata"},
        {"kind": "daily", "time": "06:00", "zone": "UTC"},
        {"kind": "interval", "every": 60, "anchor": "1970-01-01T00:00:00+00:00"},
    ],
)
def test_job_schedule_parsed_with_zone(fields: dict[str, Any]) -> None:
    parsed = schedule.parse_job_schedule("clean", fields)
    assert (parsed.name, parsed.job, parsed.zone) == ("clean", "clean", fields.get("zone", "UTC"))
    assert schedule.parse_job_schedule("clean", schedule.to_job_json(parsed)) == parsed


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({"kind": "daily", "time": "24:00", "zone": "Mars"}, ["/schedule/time", "/schedule/zone"]),
        ({}, ["/schedule/kind"]),
        ([], ["/schedule"]),
        ({"kind": "daily", "time": "06:00", "jitter": 5}, ["/schedule/jitter"]),
    ],
)
def test_invalid_job_schedule_rejected_with_pointer(fields: Any, places: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        schedule.parse_job_schedule("clean", fields)
    assert [error.pointer for error in caught.value.errors] == places


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"zone": "Europe/Berlyn"}, "did you mean Europe/Berlin?"),
        ({"zone": "UTC+1"}, "an offset is not a time zone: name a place"),
        ({"zone": "+02:00"}, "an offset is not a time zone: name a place"),
        ({"zone": "Mars/Olympus"}, "an example is Europe/Berlin"),
        ({"name": "-a"}, "the first a letter or a digit"),
        ({"initial_delay": -1}, "initial_delay must be 0 to 31622400 seconds (366 days)"),
        ({"misfire": {"grace": 0.5}}, "grace must be 1 to 604800 seconds (7 days)"),
    ],
)
def test_schedule_refusal_names_valid_values(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(says)):
        schedule.parse({**MINIMAL_SCHEDULE, **fields})
