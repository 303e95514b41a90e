"""Next times of a schedule, their notes, and warnings."""

import datetime as dt
from typing import Any

import pytest

from jobworker.domain.calendars.calendars import BusinessCalendar, Calendar, DateCalendar
from jobworker.domain.schedules import next_times, schedule
from jobworker.domain.schedules.timetable import (
    Timetable,
    describe_exclusion,
    find_next_allowed,
    find_next_time,
    is_allowed,
)

CALENDARS: dict[str, Calendar] = {
    "stocktaking": DateCalendar(days={dt.date(2026, 3, 27): "Counting", dt.date(2026, 3, 28): "Counting"}),
    "office": BusinessCalendar(),
    "never": BusinessCalendar(weekend=frozenset(range(7))),
}
NIGHTLY = {"kind": "daily", "time": "02:30"}
ZONE = "Europe/Berlin"
LAST_BUSINESS_DAY = {"kind": "business_day", "n": -1, "time": "18:00"}


def parse_utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def make_timetable(rule: dict[str, Any], **more: Any) -> Timetable:
    fields = {"name": "a", "job": "b", "zone": "Europe/Berlin", "rule": rule, **more}
    return schedule.parse(fields).build_timetable(CALENDARS)


def list_upcoming(timetable: Timetable, after: str, count: int = 3) -> list[tuple[str, bool, list[str]]]:
    upcoming = next_times.compute_upcoming(timetable, parse_utc(after), count)
    assert [upcoming_time.at for upcoming_time in upcoming] == [
        upcoming_time.local.astimezone(dt.UTC) for upcoming_time in upcoming
    ]
    return [
        (upcoming_time.local.isoformat(" ", "minutes"), upcoming_time.fires, list(upcoming_time.notes))
        for upcoming_time in upcoming
    ]


def test_shifted_gap_time_has_note() -> None:
    assert list_upcoming(make_timetable(NIGHTLY), "2026-03-28 12:00", 2) == [
        ("2026-03-29 03:30+02:00", True, ["02:30 does not exist in Europe/Berlin that day: 1 hour later"]),
        ("2026-03-30 02:30+02:00", True, []),
    ]
    # A rule about minutes means each of both times by itself.
    assert list_upcoming(make_timetable({"kind": "cron", "expression": "*/30 * * * *"}), "2026-03-29 01:15", 1) == [
        ("2026-03-29 03:30+02:00", True, []),
    ]


def test_folded_times_noted_as_first_and_second() -> None:
    twice = "02:30 comes twice in Europe/Berlin that day; this is the"
    assert list_upcoming(make_timetable(NIGHTLY, dst={"fold": "both"}), "2026-10-24 12:00") == [
        ("2026-10-25 02:30+02:00", True, [f"{twice} first"]),
        ("2026-10-25 02:30+01:00", True, [f"{twice} second"]),
        ("2026-10-26 02:30+01:00", True, []),
    ]


def test_first_excluded_time_shown_with_reason() -> None:
    assert list_upcoming(make_timetable(NIGHTLY, exclude=["stocktaking"]), "2026-03-26 12:00", 1) == [
        ("2026-03-27 02:30+01:00", False, ["does not fire: within calendar stocktaking: Counting"]),
        ("2026-03-29 03:30+02:00", True, ["02:30 does not exist in Europe/Berlin that day: 1 hour later"]),
    ]
    assert list_upcoming(make_timetable(NIGHTLY, require=["office"]), "2026-05-01 12:00", 1) == [
        ("2026-05-02 02:30+02:00", False, ["does not fire: not within calendar office"]),
        ("2026-05-04 02:30+02:00", True, []),
    ]


def test_calendar_day_name_noted_for_allowed_time() -> None:
    assert list_upcoming(make_timetable(NIGHTLY, require=["stocktaking"]), "2026-03-27 00:00", 1) == [
        ("2026-03-27 02:30+01:00", True, ["Counting (calendar stocktaking)"]),
    ]


def test_next_time_ignores_calendars_and_next_allowed_uses_them() -> None:
    timetable = make_timetable(NIGHTLY, exclude=["stocktaking"])
    closed = parse_utc("2026-03-27 01:30")
    assert find_next_time(timetable, parse_utc("2026-03-26 12:00")) == closed
    assert not is_allowed(timetable, closed)
    assert describe_exclusion(timetable, closed) == "within calendar stocktaking: Counting"
    assert find_next_allowed(timetable, parse_utc("2026-03-26 12:00")) == parse_utc("2026-03-29 01:30")
    assert is_allowed(timetable, parse_utc("2026-03-29 01:30"))


def test_next_allowed_time_skips_long_closure() -> None:
    """A rule for every second: iterating over a week of its times would take half a minute."""
    timetable = make_timetable({"kind": "cron", "expression": "* * * * * *"}, require=["office"])
    assert find_next_allowed(timetable, parse_utc("2026-05-02 00:00")) == parse_utc("2026-05-03 22:00")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rule": {"kind": "once", "at": "2026-01-01T00:00:00Z"}}, "its time has passed: 2026-01-01T00:00:00"),
        ({"rule": {"kind": "once", "at": "2026-01-01T00:00:00Z"}, "require": ["office"]}, "its time has passed"),
        ({"rule": {"kind": "rrule", "expression": "FREQ=YEARLY;BYWEEKNO=20;BYMONTH=1"}}, "its rule names no time"),
        (
            {"rule": {"kind": "rrule", "expression": "FREQ=DAILY;COUNT=5"}},
            "its COUNT has been reached; it is counted",
        ),
        ({"rule": {"kind": "rrule", "expression": "FREQ=DAILY;UNTIL=20260101"}}, "its UNTIL has passed: 2026-01-01"),
        (
            {"rule": {**LAST_BUSINESS_DAY, "roll": "following"}, "require": ["never"]},
            "its calendars (never) allow no time",
        ),
        ({"end": "2026-03-01T00:00:00Z"}, "it has ended already, at 2026-03-01"),
        ({"end": "2026-03-02T12:30:00Z"}, "no time from now until 2026-03-02T12:30:00"),
        ({"require": ["never"]}, "its calendars (never) allow no time"),
        ({"require": ["office"], "exclude": ["office"]}, "calendar office is both required and excluded"),
    ],
)
def test_schedule_that_never_fires_has_warning(fields: dict[str, Any], says: str) -> None:
    rule = fields.pop("rule", NIGHTLY)
    [warning] = next_times.compute_warnings(make_timetable(rule, **fields), parse_utc("2026-03-02 12:00"))
    assert warning.startswith("it never fires: ")
    assert (
        next_times.compute_upcoming(make_timetable(rule, **fields), parse_utc("2026-03-02 12:00"), 3) == []
        or "calendar" in warning
    )
    assert says in warning


@pytest.mark.parametrize(
    ("rule", "more"),
    [
        (NIGHTLY, {"exclude": ["stocktaking"]}),
        (NIGHTLY, {"start": "2090-01-01T00:00:00Z", "exclude": ["stocktaking"]}),
        ({"kind": "once", "at": "2090-01-01T00:00:00Z"}, {}),
        ({"kind": "once", "at": "9998-12-31T23:59:59Z"}, {"exclude": ["stocktaking"]}),
        ({"kind": "rrule", "expression": "FREQ=DAILY;COUNT=5", "start": "2090-01-01T00:00:00"}, {}),
    ],
)
def test_schedule_that_fires_has_no_warning(rule: dict[str, Any], more: dict[str, Any]) -> None:
    timetable = make_timetable(rule, **more)
    assert next_times.compute_warnings(timetable, parse_utc("2026-03-02 12:00")) == []
    assert next_times.compute_upcoming(timetable, parse_utc("2026-03-02 12:00"), 1)[0].fires


def test_skipped_gap_time_noted_at_next_time() -> None:
    left_out = ["before it, 2026-03-29 02:30 does not exist in Europe/Berlin: left out"]
    nightly = make_timetable(NIGHTLY, dst={"gap": "skip"})
    assert list_upcoming(nightly, "2026-03-28 01:00") == [
        ("2026-03-28 02:30+01:00", True, []),
        ("2026-03-30 02:30+02:00", True, left_out),
        ("2026-03-31 02:30+02:00", True, []),
    ]
    # The next time is a year later, beyond further changes of the clocks.
    yearly = make_timetable({"kind": "cron", "expression": "30 2 29 3 *"}, dst={"gap": "skip"})
    assert list_upcoming(yearly, "2026-03-28 12:00", 1) == [("2027-03-29 02:30+02:00", True, left_out)]
    assert list_upcoming(nightly, "2026-03-29 12:00", 1) == [("2026-03-30 02:30+02:00", True, [])]
    half_hourly = make_timetable({"kind": "cron", "expression": "*/30 * * * *"}, dst={"gap": "skip"})
    assert list_upcoming(half_hourly, "2026-03-29 00:45", 1) == [("2026-03-29 03:00+02:00", True, [])]


def test_shifted_gap_time_that_coincides_has_note() -> None:
    timetable = make_timetable({"kind": "cron", "expression": "0,30 2,3 * * *"}, dst={"gap": "shift"})
    assert list_upcoming(timetable, "2026-03-28 12:00", 2) == [
        (
            f"2026-03-29 {later}+02:00",
            True,
            [f"{time} does not exist in {ZONE} that day: 1 hour later, together with {later}"],
        )
        for time, later in (("02:00", "03:00"), ("02:30", "03:30"))
    ]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Adak", "UTC", "Europe/Berlin"])
@pytest.mark.parametrize(
    "rule",
    [
        NIGHTLY,
        LAST_BUSINESS_DAY,
        {"kind": "interval", "every": 86400 * 300},
        {"kind": "cron", "expression": "*/30 * 29 2 *"},
    ],
)
def test_next_times_computed_at_ends_of_calendar(zone: str, rule: dict[str, Any]) -> None:
    """Years 1 and 9999 are typing errors, but must not raise."""
    timetable = make_timetable(rule, zone=zone, exclude=["stocktaking"], end="9999-12-31T23:59:59Z")
    [early] = next_times.compute_upcoming(timetable, parse_utc("0001-01-01 00:00"), 1)
    assert early.at.year <= 4
    for late in ("9949-01-01", "9990-01-01", "9999-11-01", "9999-12-28", "9999-12-31"):
        upcoming = next_times.compute_upcoming(timetable, parse_utc(f"{late} 23:59"), 3)
        assert late < "9999" or len(upcoming) < 4
        assert not next_times.compute_warnings(timetable, parse_utc(f"{late} 23:59")) or not upcoming
    last = next_times.compute_upcoming(timetable, parse_utc("9998-12-01 00:00"), 1)
    assert [upcoming_time.at.year for upcoming_time in last] in ([9998], [9999], [])


def test_occurrence_in_utc_has_no_notes() -> None:
    assert next_times.describe_occurrence(make_timetable(NIGHTLY, zone="UTC"), parse_utc("9999-12-31 23:59")) == []
