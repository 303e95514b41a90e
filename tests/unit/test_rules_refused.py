"""Rules that nobody could mean: what is refused, at which place, and what the text says would be right."""

import re
from typing import Any

import pytest

from jobworker.domain.errors import InvalidInput
from jobworker.domain.rules import reading


def refused(described: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as caught:
        reading.parse(described)
    return [(error.pointer, error.code) for error in caught.value.errors]


@pytest.mark.parametrize(
    ("described", "pointer", "code"),
    [
        ([], "/rule", "wrong_type"),
        ({}, "/rule/kind", "missing"),
        ({"kind": "lunar"}, "/rule/kind", "not_allowed"),
        ({"kind": "once"}, "/rule/at", "missing"),
        ({"kind": "once", "at": "2026-01-01T00:00:00"}, "/rule/at", "naive_time"),
        ({"kind": "once", "at": "2026-02-30T00:00:00Z"}, "/rule/at", "wrong_type"),
        ({"kind": "interval"}, "/rule/every", "missing"),
        ({"kind": "interval", "every": 0.5}, "/rule/every", "not_allowed"),
        ({"kind": "interval", "every": 0}, "/rule/every", "not_allowed"),
        ({"kind": "interval", "every": -60}, "/rule/every", "not_allowed"),
        ({"kind": "interval", "every": True}, "/rule/every", "wrong_type"),
        ({"kind": "interval", "every": "60"}, "/rule/every", "wrong_type"),
        ({"kind": "interval", "every": "P1M"}, "/rule/every", "wrong_type"),
        ({"kind": "interval", "every": float("nan")}, "/rule/every", "wrong_type"),
        ({"kind": "interval", "every": 1e300}, "/rule/every", "not_allowed"),
        ({"kind": "interval", "every": 60, "anchor": "tomorrow"}, "/rule/anchor", "wrong_type"),
        ({"kind": "interval", "every": 60, "anchor": 5}, "/rule/anchor", "wrong_type"),
        ({"kind": "interval", "every": 60, "anchor": "2026-01-01T00:00:00"}, "/rule/anchor", "naive_time"),
        ({"kind": "interval", "every": 60, "anchor": "0001-01-01T00:00:00+14:00"}, "/rule/anchor", "not_allowed"),
        ({"kind": "interval", "every": 60, "zone": "UTC"}, "/rule/zone", "unknown_field"),
        ({"kind": "daily"}, "/rule/time", "missing"),
        ({"kind": "daily", "time": "24:00"}, "/rule/time", "wrong_type"),
        ({"kind": "daily", "time": "6:00"}, "/rule/time", "wrong_type"),
        ({"kind": "daily", "time": "06:00\n"}, "/rule/time", "wrong_type"),
        ({"kind": "daily", "time": 6}, "/rule/time", "wrong_type"),
        ({"kind": "weekly", "time": "06:00"}, "/rule/days", "missing"),
        ({"kind": "weekly", "days": [], "time": "06:00"}, "/rule/days", "not_allowed"),
        ({"kind": "weekly", "days": ["someday"], "time": "06:00"}, "/rule/days/0", "not_allowed"),
        ({"kind": "weekly", "days": "monday", "time": "06:00"}, "/rule/days", "wrong_type"),
        ({"kind": "monthly", "time": "06:00"}, "/rule/day", "missing"),
        ({"kind": "monthly", "day": 0, "time": "06:00"}, "/rule/day", "not_allowed"),
        ({"kind": "monthly", "day": 32, "time": "06:00"}, "/rule/day", "not_allowed"),
        ({"kind": "monthly", "day": "first", "time": "06:00"}, "/rule/day", "wrong_type"),
        ({"kind": "business_day", "time": "06:00"}, "/rule/n", "missing"),
        ({"kind": "business_day", "n": 0, "time": "06:00"}, "/rule/n", "not_allowed"),
        ({"kind": "business_day", "n": 24, "time": "06:00"}, "/rule/n", "not_allowed"),
        ({"kind": "business_day", "n": 1, "time": "06:00", "roll": "sideways"}, "/rule/roll", "not_allowed"),
        ({"kind": "cron"}, "/rule/expression", "missing"),
        ({"kind": "cron", "expression": ""}, "/rule/expression", "wrong_type"),
        ({"kind": "cron", "expression": "0 3 * * *", "every": 60}, "/rule/every", "unknown_field"),
        ({"kind": "rrule"}, "/rule/expression", "missing"),
        ({"kind": "rrule", "expression": "FREQ=DAILY", "start": "2026-01-01T00:00:00Z"}, "/rule/start", "not_allowed"),
        ({"kind": "rrule", "expression": "FREQ=DAILY", "start": "soon"}, "/rule/start", "wrong_type"),
    ],
)
def test_a_wrong_rule_is_refused_at_its_place(described: Any, pointer: str, code: str) -> None:
    assert refused(described) == [(pointer, code)]


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("0 0 30 2 *", "names a day that none of its months has"),
        ("0 0 31 4,6,9,11 *", "names a day that none of its months has"),
        ("*/0 * * * *", "Bad minute"),
        ("61 * * * *", "Bad minute"),
        ("* 24 * * *", "Bad hour"),
        ("* * 0 * *", "Bad day-of-month"),
        ("* * * 13 *", "Bad month"),
        ("* * * * 8", "Bad day-of-week"),
        ("* * * * MON#6", "Bad day-of-week"),
        ("0 0 1 1 * 2026 *", "has 7 fields"),
        ("0 0 1 1", "has 4 fields"),
        ("@reboot", "run_at_start"),
        ("@fortnightly", "@daily"),
        ("0 0 15W * *", "the weekday nearest to a day is not"),
        ("0 0 ? * MON", "write * instead of ?"),
        ("0 0 1-L * *", "Bad day-of-month"),
    ],
)
def test_a_wrong_cron_expression_is_refused_with_what_is_wrong(expression: str, says: str) -> None:
    described = {"kind": "cron", "expression": expression}
    assert refused(described) == [("/rule/expression", "bad_cron")]
    with pytest.raises(InvalidInput, match=re.escape(says)):
        reading.parse(described)


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "text of 1 to"),
        ("BYDAY=MO", "FREQ is missing"),
        ("FREQ=FORTNIGHTLY", "FREQ must be one of HOURLY, DAILY"),
        ("FREQ=SECONDLY", "use an interval or a cron expression"),
        ("FREQ=MINUTELY;INTERVAL=5", "use an interval or a cron expression"),
        ("FREQ=DAILY;FREQ=DAILY", "FREQ is there more than once"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL must be 1 to 366"),
        ("FREQ=DAILY;INTERVAL=x", "INTERVAL must be 1 to 366"),
        ("FREQ=DAILY;COUNT=1001", "COUNT must be 1 to 1000"),
        ("FREQ=DAILY;COUNT=3;UNTIL=20270101", "exclude each other"),
        ("FREQ=DAILY;UNTIL=20270101T000000Z", "on the schedule's own clock"),
        ("FREQ=DAILY;UNTIL=20270230", "does not exist"),
        ("FREQ=DAILY;BYHOUR=24", "BYHOUR must be 0 to 23"),
        ("FREQ=DAILY;BYMONTHDAY=0", "and not 0"),
        ("FREQ=DAILY;BYEASTER=0", "no part of a rule"),
        ("FREQ=DAILY;BYDAY=MON", "BYDAY must list days such as MO"),
        ("FREQ=MONTHLY;BYDAY=0MO", "BYDAY must list days such as MO"),
        ("FREQ=DAILY;BYDAY=2MO", "a number in BYDAY"),
        ("FREQ=WEEKLY;BYMONTHDAY=13", "BYMONTHDAY does not go with"),
        ("FREQ=MONTHLY;BYWEEKNO=20", "BYWEEKNO goes with"),
        ("FREQ=MONTHLY;BYYEARDAY=20", "BYYEARDAY goes with"),
        ("FREQ=MONTHLY;BYSETPOS=1", "BYSETPOS goes with"),
        ("FREQ=WEEKLY;WKST=XX", "WKST must be one of"),
        ("FREQ=YEARLY;BYHOUR=1,2,3,4,5;BYMINUTE=1,2,3,4,5;BYSETPOS=1", "at most 24 times a day"),
    ],
)
def test_a_wrong_recurrence_rule_is_refused_with_what_is_wrong(expression: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        reading.parse({"kind": "rrule", "expression": expression})
    assert [error.pointer for error in caught.value.errors] == ["/rule/expression"]


def test_every_problem_is_told_at_once() -> None:
    described = {"kind": "weekly", "days": ["someday", "monday"], "time": "25:00", "zone": "UTC"}
    assert [pointer for pointer, _ in refused(described)] == ["/rule/days/0", "/rule/time", "/rule/zone"]
