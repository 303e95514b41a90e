"""Rules: the times that each kind names, and their stored form."""

import datetime as dt
import itertools
from typing import Any

import pytest

from jobworker.domain.schedules.rules import rule_parser
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule, RollConvention
from jobworker.domain.schedules.rules.fixed import IntervalRule
from jobworker.domain.schedules.timetable import Rule, WallClockRule


def parse_utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def list_first(count: int, rule: Rule, begin: str) -> list[str]:
    """Return the first `count` times of a wall-clock rule from a time on."""
    assert isinstance(rule, WallClockRule)
    times: list[str] = []
    time = rule.find_first(dt.datetime.fromisoformat(begin))
    while time is not None and len(times) < count:
        times.append(time.isoformat(" ", "minutes"))
        time = rule.find_first(time + dt.timedelta(microseconds=1))
    return times


@pytest.mark.parametrize(
    ("every", "anchor", "moment", "expected"),
    [
        (60, "1970-01-01", "2026-03-02T12:00:00", "2026-03-02T12:01:00"),
        (60, "1970-01-01", "2026-03-02T12:00:59.999999", "2026-03-02T12:01:00"),
        (3600, "2026-01-01T00:30:00", "2026-03-02T12:00:00", "2026-03-02T12:30:00"),
        (86400, "2027-01-01T06:00:00", "2026-03-02T12:00:00", "2026-03-03T06:00:00"),
        (1.5, "2026-01-01", "2026-01-01T00:00:01.5", "2026-01-01T00:00:03"),
    ],
)
def test_interval_counts_from_its_anchor(every: float, anchor: str, moment: str, expected: str) -> None:
    assert IntervalRule(every, parse_utc(anchor)).find_next(parse_utc(moment)) == parse_utc(expected)


@pytest.mark.parametrize("every", [1.1, 1.3, 2.7, 7.77])
def test_interval_steps_have_equal_length(every: float) -> None:
    rule, moment = IntervalRule(every), parse_utc("2026-03-02T12:00:00")
    moments = []
    for _ in range(200):
        next_moment = rule.find_next(moment)
        assert next_moment is not None
        moments.append(moment := next_moment)
    assert {later - earlier for earlier, later in itertools.pairwise(moments)} == {dt.timedelta(seconds=every)}


@pytest.mark.parametrize(
    ("described", "begin", "expected"),
    [
        ({"kind": "daily", "time": "06:00"}, "2026-12-30 06:00", ["2026-12-30 06:00", "2026-12-31 06:00"]),
        ({"kind": "daily", "time": "06:00"}, "2026-12-31 06:01", ["2027-01-01 06:00", "2027-01-02 06:00"]),
        (
            {"kind": "weekly", "days": ["sunday", "monday"], "time": "00:00"},
            "2026-03-01 00:01",
            ["2026-03-02 00:00", "2026-03-08 00:00"],
        ),
        # A day that a month does not have is left out; every month has a `last` day.
        (
            {"kind": "monthly", "day": 31, "time": "06:00"},
            "2026-01-31 06:01",
            ["2026-03-31 06:00", "2026-05-31 06:00"],
        ),
        (
            {"kind": "monthly", "day": 29, "time": "06:00"},
            "2026-01-30 00:00",
            ["2026-03-29 06:00", "2026-04-29 06:00"],
        ),
        (
            {"kind": "monthly", "day": 29, "time": "06:00"},
            "2028-01-30 00:00",
            ["2028-02-29 06:00", "2028-03-29 06:00"],
        ),
        (
            {"kind": "monthly", "day": "last", "time": "06:00"},
            "2026-01-31 06:01",
            ["2026-02-28 06:00", "2026-03-31 06:00"],
        ),
        # August 2026 begins on a Saturday, May ends on a Sunday.
        (
            {"kind": "business_day", "n": 1, "time": "18:00"},
            "2026-07-31 00:00",
            ["2026-08-03 18:00", "2026-09-01 18:00"],
        ),
        (
            {"kind": "business_day", "n": -1, "time": "18:00"},
            "2026-05-01 00:00",
            ["2026-05-29 18:00", "2026-06-30 18:00"],
        ),
        (
            {"kind": "business_day", "n": -2, "time": "18:00"},
            "2026-05-01 00:00",
            ["2026-05-28 18:00", "2026-06-29 18:00"],
        ),
        ({"kind": "cron", "expression": "0 0 L * *"}, "2028-02-10 00:00", ["2028-02-29 00:00", "2028-03-31 00:00"]),
        ({"kind": "cron", "expression": "0 0 LW * *"}, "2026-05-01 00:00", ["2026-05-29 00:00", "2026-06-30 00:00"]),
        ({"kind": "cron", "expression": "0 18 * * 5L"}, "2026-05-01 00:00", ["2026-05-29 18:00", "2026-06-26 18:00"]),
        (
            {"kind": "cron", "expression": "0 18 * * FRI#2"},
            "2026-05-01 00:00",
            ["2026-05-08 18:00", "2026-06-12 18:00"],
        ),
        (
            {"kind": "cron", "expression": "0 0 1 JAN,jul *"},
            "2026-05-01 00:00",
            ["2026-07-01 00:00", "2027-01-01 00:00"],
        ),
        ({"kind": "cron", "expression": "@daily"}, "2026-05-01 00:01", ["2026-05-02 00:00", "2026-05-03 00:00"]),
        ({"kind": "cron", "expression": "@Hourly"}, "2026-05-01 00:01", ["2026-05-01 01:00", "2026-05-01 02:00"]),
        # As in Debian's cron: the 13th or a Friday; but with a star, only a 13th that is a Friday.
        ({"kind": "cron", "expression": "0 0 13 * 5"}, "2026-05-11 00:00", ["2026-05-13 00:00", "2026-05-15 00:00"]),
        ({"kind": "cron", "expression": "0 0 */13 * 5"}, "2026-05-11 00:00", ["2026-08-14 00:00", "2026-11-27 00:00"]),
        (
            {"kind": "rrule", "expression": "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,WE", "start": "2026-01-05T06:00:00"},
            "2026-01-06 00:00",
            ["2026-01-07 06:00", "2026-01-19 06:00"],
        ),
        (
            {
                "kind": "rrule",
                "expression": "rrule:freq=monthly;byday=mo,tu,we,th,fr;bysetpos=-1",
                "start": "2026-01-01",
            },
            "2026-05-01 00:00",
            ["2026-05-29 00:00", "2026-06-30 00:00"],
        ),
        (
            {"kind": "rrule", "expression": "FREQ=DAILY;COUNT=2", "start": "2026-05-01T06:00:00"},
            "2026-04-01 00:00",
            ["2026-05-01 06:00", "2026-05-02 06:00"],
        ),
        # A date as the end means that whole day.
        (
            {"kind": "rrule", "expression": "FREQ=DAILY;UNTIL=20260502", "start": "2026-05-01T06:00:00"},
            "2026-05-02 00:00",
            ["2026-05-02 06:00"],
        ),
        # RFC 5545: the day of the week is the start's, a Thursday.
        (
            {"kind": "rrule", "expression": "FREQ=YEARLY;BYWEEKNO=53", "start": "2026-01-01T06:00:00"},
            "2026-06-01 00:00",
            ["2026-12-31 06:00", "2032-12-30 06:00"],
        ),
    ],
)
def test_rule_finds_wall_clock_times(described: dict[str, Any], begin: str, expected: list[str]) -> None:
    assert list_first(2, rule_parser.parse(described), begin) == expected


CLOSED = {dt.date(2026, 5, 29), dt.date(2026, 8, 3), dt.date(2026, 8, 4)}


@pytest.mark.parametrize(
    ("number", "roll", "begin", "expected"),
    [
        # May 29, a Friday, is the last business day of May and closed; August 3 is the first business day of August.
        (-1, None, "2026-05-10", "2026-05-29"),
        (-1, RollConvention.PRECEDING, "2026-05-10", "2026-05-28"),
        (-1, RollConvention.FOLLOWING, "2026-05-10", "2026-06-01"),
        (-1, RollConvention.MODIFIED_FOLLOWING, "2026-05-10", "2026-05-28"),
        (1, RollConvention.FOLLOWING, "2026-08-04", "2026-08-05"),
        (1, RollConvention.MODIFIED_FOLLOWING, "2026-08-04", "2026-08-05"),
        # February 2026 has twenty business days.
        (21, None, "2026-02-10", "2026-03-30"),
        (21, RollConvention.PRECEDING, "2026-02-10", "2026-02-27"),
        (21, RollConvention.FOLLOWING, "2026-02-10", "2026-03-02"),
        (21, RollConvention.MODIFIED_FOLLOWING, "2026-02-10", "2026-02-27"),
        (-21, RollConvention.FOLLOWING, "2026-02-01", "2026-02-02"),
    ],
)
def test_closed_business_day_rolled(number: int, roll: RollConvention | None, begin: str, expected: str) -> None:
    rule = BusinessDayRule(number, dt.time(18), roll, allowed=lambda time: time.date() not in CLOSED)
    assert list_first(1, rule, f"{begin} 00:00") == [f"{expected} 18:00"]


@pytest.mark.parametrize(
    ("number", "roll", "expected"),
    [
        # November 2026 has 21 business days, October 22, December 23; the first of November is a Sunday.
        (23, None, ["2026-12-31", "2027-03-31"]),
        (23, RollConvention.PRECEDING, ["2026-10-30", "2026-11-30", "2026-12-31", "2027-01-29"]),
        (23, RollConvention.MODIFIED_FOLLOWING, ["2026-10-30", "2026-11-30", "2026-12-31", "2027-01-29"]),
        (23, RollConvention.FOLLOWING, ["2026-10-01", "2026-11-02", "2026-12-01", "2026-12-31", "2027-02-01"]),
        (-23, None, ["2026-12-01", "2027-03-01"]),
        (-23, RollConvention.PRECEDING, ["2026-10-30", "2026-12-01", "2026-12-31"]),
        (-23, RollConvention.MODIFIED_FOLLOWING, ["2026-10-01", "2026-11-02", "2026-12-01", "2027-01-01"]),
        (-23, RollConvention.FOLLOWING, ["2026-10-01", "2026-11-02", "2026-12-01", "2027-01-01"]),
    ],
)
def test_month_with_too_few_business_days_rolled_from_its_end(
    number: int, roll: RollConvention | None, expected: list[str]
) -> None:
    rule = BusinessDayRule(number, dt.time(18), roll)
    assert list_first(len(expected), rule, "2026-10-01 00:00") == [f"{day} 18:00" for day in expected]


def test_months_rolled_onto_same_day_give_one_occurrence() -> None:
    closed = {dt.date(2026, 1, 30), dt.date(2026, 2, 27)}
    late = BusinessDayRule(-1, dt.time(18), RollConvention.FOLLOWING, allowed=lambda time: time.date() not in closed)
    assert list_first(3, late, "2026-01-10 00:00") == ["2026-02-02 18:00", "2026-03-02 18:00", "2026-03-31 18:00"]
    shut = BusinessDayRule(
        15, dt.time(18), RollConvention.FOLLOWING, allowed=lambda time: time.date() >= dt.date(2026, 2, 20)
    )
    assert list_first(2, shut, "2026-01-01 00:00") == ["2026-02-20 18:00", "2026-03-20 18:00"]


@pytest.mark.parametrize(
    "described",
    [
        {"kind": "once", "at": "2026-01-31T12:00:00+01:00"},
        {"kind": "interval", "every": "PT1H30M"},
        {"kind": "interval", "every": 1.5, "anchor": "2026-01-01T00:00:00+02:00"},
        {"kind": "daily", "time": "18:30:15"},
        {"kind": "weekly", "days": ["sunday", "monday"], "time": "06:00"},
        {"kind": "monthly", "day": 31, "time": "06:00"},
        {"kind": "monthly", "day": "last", "time": "06:00"},
        {"kind": "business_day", "n": 10, "time": "18:00"},
        {"kind": "business_day", "n": -1, "time": "18:00", "roll": "preceding"},
        {"kind": "cron", "expression": "0 3 * * *"},
        {"kind": "cron", "expression": "0 0 3 * * *"},
        {"kind": "cron", "expression": "@daily"},
        {"kind": "rrule", "expression": "FREQ=DAILY"},
        {
            "kind": "rrule",
            "expression": "FREQ=MONTHLY;BYDAY=-1FR;UNTIL=20301231",
            "start": "2026-01-01T06:00:00",
        },
    ],
)
def test_rule_json_round_trip(described: dict[str, Any]) -> None:
    rule = rule_parser.parse(described)
    assert rule_parser.parse(rule.to_json()) == rule_parser.load_rule(rule.to_json()) == rule
    assert rule.to_json()["kind"] == described["kind"]


@pytest.mark.parametrize(
    "described",
    [
        {"kind": "rrule", "expression": "FREQ=MONTHLY;BYMONTHDAY=1;BYDAY=2MO"},
        {"kind": "rrule", "expression": "FREQ=HOURLY;INTERVAL=2;BYHOUR=3"},
        {"kind": "rrule", "expression": "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=6"},
        {"kind": "cron", "expression": "0 0 */30 2 MON#5"},
        {"kind": "rrule", "expression": "FREQ=HOURLY;COUNT=9;BYMONTH=2;BYYEARDAY=200"},
    ],
)
def test_rule_without_times_ends_search_early(described: dict[str, Any]) -> None:
    """An unbounded search for a time of these rules would continue until year 9999."""
    rule = rule_parser.parse(described)
    assert list_first(1, rule, "2026-01-01 00:00") == []
