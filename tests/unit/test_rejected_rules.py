"""Invalid rules: their pointers, codes and messages."""

import datetime as dt
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobworker.domain.errors import InvalidInput
from jobworker.domain.schedules.rules import cron_errors, rule_parser
from jobworker.domain.schedules.rules.cron import CronRule


def get_problem(rule: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as caught:
        rule_parser.parse(rule)
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
        ({"kind": "once", "at": "0001-06-01T00:00:00Z"}, "/rule/at", "not_allowed"),
        ({"kind": "once", "at": "9999-12-31T23:59:59Z"}, "/rule/at", "not_allowed"),
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
def test_invalid_rule_rejected_with_pointer(described: Any, pointer: str, code: str) -> None:
    assert get_problem(described) == [(pointer, code)]


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("0 0 30 2 *", "names a day that none of its months has"),
        ("0 0 31 4,6,9,11 *", "names a day that none of its months has"),
        ("0 0 30 FEB MON-*", "day of week 'MON-*' is not 0 to 7 or SUN to SAT, 5L or 5#2"),
        ("*/0 * * * *", "minute '*/0' has a step that is not 1 to 59"),
        ("*/60 * * * *", "minute '*/60' has a step that is not 1 to 59"),
        ("0 */25 * * *", "hour '*/25' has a step that is not 1 to 23"),
        ("0 0 */32 * *", "day of month '*/32' has a step that is not 1 to 30"),
        ("0 0 1 */13 *", "month '*/13' has a step that is not 1 to 11"),
        ("0 0 * * */7", "day of week '*/7' has a step that is not 1 to 6"),
        ("1-5/0 * * * *", "minute '1-5/0' has a step that is not 1 to 59"),
        ("*/x * * * *", "minute '*/x' has a step"),
        ("*/5/2 * * * *", "minute '*/5/2' has a step"),
        ("60 * * * *", "minute '60' is not 0 to 59, a range such as 0-4, or *"),
        ("61 * * * * *", "second '61' is not 0 to 59"),
        ("٣ * * * *", "minute '٣' is not 0 to 59"),
        ("* 24 * * *", "hour '24' is not 0 to 23"),
        ("* * 0 * *", "day of month '0' is not 1 to 31, L or LW, a range"),
        ("* * * 13 *", "month '13' is not 1 to 12 or JAN to DEC"),
        ("* * * * 8", "day of week '8' is not 0 to 7 or SUN to SAT"),
        ("0 0 0 0 0", "day of month '0' is not 1 to 31, L or LW, a range such as 1-5, or *; month '0' is not"),
        ("5-1 * * * *", "minute '5-1' runs backwards; write 5-59,0-1 if it goes over the end, or 1-5"),
        ("* 22-2 * * *", "write 22-23,0-2"),
        ("* * * * FRI-SUN", "Sunday is 7, too: write 5-7"),
        ("1,,2 * * * *", "minute '1,,2' has an empty list item"),
        ("* 1-24 * * *", "hour '1-24' is not 0 to 23"),
        ("H * * * *", "set the schedule's spread"),
        ("0 0 L-3 * *", "day of month 'L-3' is not supported; L is the last day"),
        ("0 0 L5 * *", "day of month 'L5' is not supported; L is the last day"),
        ("0 0 L/2 * *", "day of month 'L/2' is not supported; L is the last day"),
        ("* * * * L", "write 5L for the last Friday"),
        ("* * * * FRIL", "write 5L for the last Friday"),
        ("* * * * 5#6", "write FRI#2 for the second Friday, with 1 to 5"),
        ("* * * * MON#2#3", "write FRI#2 for the second Friday"),
        ("0 0 1 1 * 2026 *", "has 7 fields"),
        ("0 0 1 1", "has 4 fields"),
        ("@reboot", "run_at_start"),
        ("@fortnightly", "@daily"),
        ("0 0 15W * *", "the weekday nearest to a day is not"),
        ("0 0 ? * MON", "write * instead of ?"),
        ("0 0 1-L * *", "day of month '1-L' is not supported"),
    ],
)
def test_invalid_cron_expression_rejected_with_reason(expression: str, says: str) -> None:
    described = {"kind": "cron", "expression": expression}
    assert get_problem(described) == [("/rule/expression", "bad_cron")]
    with pytest.raises(InvalidInput, match=re.escape(says)):
        rule_parser.parse(described)


@pytest.mark.parametrize(
    "expression",
    [
        "*/59 */23 */30 */11 */6",
        "0,30 0-5/2 1,15,L,LW jan-MAR,12 sun,5L,FRI#2,0#5,7",
        "5/10 * * * *",
        "0-0 0 * * *",
        "59 59 23 31 12 7",
        "0 0 30 2 5",
    ],
)
def test_valid_cron_expression_accepted(expression: str) -> None:
    assert rule_parser.parse({"kind": "cron", "expression": expression}) == CronRule(expression)


TERMS = st.from_regex(
    r"(\*|0|5|07|59|L|LW|MON|FRI|JAN|jul|W|5W|H|)((-|#|/)(0|5|31|2|FRI|MAR|\*|)){0,2}L?", fullmatch=True
)


@given(st.lists(st.lists(TERMS, min_size=1, max_size=2).map(",".join), min_size=5, max_size=6), st.integers(0, 5))
@settings(max_examples=100)
def test_cron_expression_without_described_problem_can_be_parsed(fields: list[str], place: int) -> None:
    """JobWorker describes the problems and cronsim parses: cronsim must accept every expression without a problem."""
    for candidate in (fields, ["1" if at != place % len(fields) else text for at, text in enumerate(fields)]):
        expression = " ".join(candidate)
        if cron_errors.describe_problem(expression) is None:
            CronRule(expression).find_first(dt.datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "text of 1 to"),
        ("BYDAY=MO", "FREQ is missing"),
        ("FREQ=FORTNIGHTLY", "FREQ must be one of HOURLY, DAILY"),
        ("FREQ=SECONDLY", "use an interval or a cron expression"),
        ("FREQ=MINUTELY;INTERVAL=5", "use an interval or a cron expression"),
        ("FREQ=DAILY;FREQ=DAILY", "FREQ is present more than once"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL must be 1 to 366"),
        ("FREQ=DAILY;INTERVAL=x", "INTERVAL must be 1 to 366"),
        ("FREQ=DAILY;COUNT=1001", "COUNT must be 1 to 1000"),
        ("FREQ=DAILY;COUNT=3;UNTIL=20270101", "exclude each other"),
        ("FREQ=DAILY;UNTIL=20270101T000000Z", "is in UTC, .* own clock, without the Z"),
        ("FREQ=DAILY;UNTIL=soon", "on the schedule's own clock"),
        ("DTSTART:20260101T060000\nRRULE:FREQ=DAILY", 'DTSTART goes into "start"'),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "names a day that none of its months has"),
        ("FREQ=YEARLY;BYMONTH=4,6;BYMONTHDAY=-31,31", "names a day that none of its months has"),
        ("FREQ=DAILY;UNTIL=20270230", "does not exist"),
        ("FREQ=DAILY;BYHOUR=24", "BYHOUR must be 0 to 23"),
        ("FREQ=DAILY;BYMONTHDAY=0", "and not 0"),
        ("FREQ=DAILY;BYEASTER=0", "not a part of a rule"),
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
def test_invalid_recurrence_rule_rejected_with_reason(expression: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        rule_parser.parse({"kind": "rrule", "expression": expression})
    assert [error.pointer for error in caught.value.errors] == ["/rule/expression"]


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({}, "kind is required; it is one of once, interval, daily, weekly"),
        ({"kind": "interval", "every": 0}, "every must be 1 to 316224000 seconds (3660 days)"),
        ({"kind": "monthly", "day": "first", "time": "06:00"}, 'day must be 1 to 31, or "last"'),
        ({"kind": "monthly", "day": "30", "time": "06:00"}, 'day must be 1 to 31, or "last"'),
        ({"kind": "monthly", "day": True, "time": "06:00"}, 'day must be 1 to 31, or "last"'),
        ({"kind": "monthly", "day": -1, "time": "06:00"}, 'day must be 1 to 31, or "last"'),
    ],
)
def test_rule_refusal_names_valid_values(described: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(says)):
        rule_parser.parse(described)


def test_rule_problems_all_reported() -> None:
    described = {"kind": "weekly", "days": ["someday", "monday"], "time": "25:00", "zone": "UTC"}
    assert [pointer for pointer, _ in get_problem(described)] == ["/rule/days/0", "/rule/time", "/rule/zone"]
