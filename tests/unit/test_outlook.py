"""What is ahead of a schedule: its next times, what is remarkable about them, and warnings."""

import datetime as dt
from typing import Any

import pytest

from jobworker.domain import outlook, schedule
from jobworker.domain.calendars import Business, Calendar, Dates
from jobworker.domain.timetable import Timetable, allows, forbidden_by, next_after, next_allowed

CALENDARS: dict[str, Calendar] = {
    "stocktaking": Dates(days={dt.date(2026, 3, 27): "Counting", dt.date(2026, 3, 28): "Counting"}),
    "office": Business(),
    "never": Business(weekend=frozenset(range(7))),
}
NIGHTLY = {"kind": "daily", "time": "02:30"}


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def table(rule: dict[str, Any], **more: Any) -> Timetable:
    given = {"name": "a", "job": "b", "zone": "Europe/Berlin", "rule": rule, **more}
    return schedule.parse(given).timetable(CALENDARS)


def ahead(timetable: Timetable, after: str, count: int = 3) -> list[tuple[str, bool, list[str]]]:
    found = outlook.upcoming(timetable, utc(after), count)
    assert [each.at for each in found] == [each.local.astimezone(dt.UTC) for each in found]
    return [(each.local.isoformat(" ", "minutes"), each.fires, list(each.notes)) for each in found]


def test_a_time_that_clocks_skip_is_marked_where_it_is_made_up_for() -> None:
    assert ahead(table(NIGHTLY), "2026-03-28 12:00", 2) == [
        ("2026-03-29 03:30+02:00", True, ["02:30 does not exist in Europe/Berlin that day: 1 hour later"]),
        ("2026-03-30 02:30+02:00", True, []),
    ]
    # Both of them are meant by a rule about minutes, each by itself.
    assert ahead(table({"kind": "cron", "expression": "*/30 * * * *"}), "2026-03-29 01:15", 1) == [
        ("2026-03-29 03:30+02:00", True, []),
    ]


def test_a_time_that_comes_twice_is_marked_as_the_first_or_the_second() -> None:
    twice = "02:30 comes twice in Europe/Berlin that day; this is the"
    assert ahead(table(NIGHTLY, dst={"fold": "both"}), "2026-10-24 12:00") == [
        ("2026-10-25 02:30+02:00", True, [f"{twice} first"]),
        ("2026-10-25 02:30+01:00", True, [f"{twice} second"]),
        ("2026-10-26 02:30+01:00", True, []),
    ]


def test_the_first_of_the_times_that_a_calendar_forbids_is_shown() -> None:
    assert ahead(table(NIGHTLY, exclude=["stocktaking"]), "2026-03-26 12:00", 1) == [
        ("2026-03-27 02:30+01:00", False, ["does not fire: within calendar stocktaking: Counting"]),
        ("2026-03-29 03:30+02:00", True, ["02:30 does not exist in Europe/Berlin that day: 1 hour later"]),
    ]
    assert ahead(table(NIGHTLY, require=["office"]), "2026-05-01 12:00", 1) == [
        ("2026-05-02 02:30+02:00", False, ["does not fire: not within calendar office"]),
        ("2026-05-04 02:30+02:00", True, []),
    ]


def test_the_name_of_a_day_is_told_even_where_it_forbids_nothing() -> None:
    assert ahead(table(NIGHTLY, require=["stocktaking"]), "2026-03-27 00:00", 1) == [
        ("2026-03-27 02:30+01:00", True, ["Counting (calendar stocktaking)"]),
    ]


def test_nominal_times_are_those_of_the_rule_and_calendars_only_allow_them() -> None:
    timetable = table(NIGHTLY, exclude=["stocktaking"])
    closed = utc("2026-03-27 01:30")
    assert next_after(timetable, utc("2026-03-26 12:00")) == closed
    assert not allows(timetable, closed)
    assert forbidden_by(timetable, closed) == "within calendar stocktaking: Counting"
    assert next_allowed(timetable, utc("2026-03-26 12:00")) == utc("2026-03-29 01:30")
    assert allows(timetable, utc("2026-03-29 01:30"))


def test_a_long_closure_is_jumped_over() -> None:
    """Every second: walking through a week of them would take half a minute."""
    timetable = table({"kind": "cron", "expression": "* * * * * *"}, require=["office"])
    assert next_allowed(timetable, utc("2026-05-02 00:00")) == utc("2026-05-03 22:00")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rule": {"kind": "once", "at": "2026-01-01T00:00:00Z"}}, "its rule names no time"),
        ({"rule": {"kind": "rrule", "expression": "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30"}}, "its rule names no time"),
        ({"end": "2026-03-01T00:00:00Z"}, "it has ended already, at 2026-03-01"),
        ({"end": "2026-03-02T12:30:00Z"}, "no time from now until 2026-03-02T12:30:00"),
        ({"require": ["never"]}, "its calendars (never) allow no time"),
        ({"require": ["office"], "exclude": ["office"]}, "its calendars (office, office) allow no time"),
    ],
)
def test_what_never_fires_is_warned_of(given: dict[str, Any], says: str) -> None:
    rule = given.pop("rule", NIGHTLY)
    [warning] = outlook.warnings(table(rule, **given), utc("2026-03-02 12:00"))
    assert warning.startswith("it never fires: ")
    assert outlook.upcoming(table(rule, **given), utc("2026-03-02 12:00"), 3) == [] or "calendars" in warning
    assert says in warning


def test_what_fires_needs_no_warning() -> None:
    assert outlook.warnings(table(NIGHTLY, exclude=["stocktaking"]), utc("2026-03-02 12:00")) == []
