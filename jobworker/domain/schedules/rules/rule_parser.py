"""Parser of rules in JSON: returns a rule, or an error with its place and the accepted values.

{"kind": "once", "at": RFC 3339}                     {"kind": "interval", "every": seconds, "anchor"?: RFC 3339}
{"kind": "daily", "time": "06:00"}                   {"kind": "weekly", "days": ["monday", …], "time"}
{"kind": "monthly", "day": 1 to 31 | "last", "time"} {"kind": "business_day", "n": 10 | -1, "time", "roll"?}
{"kind": "cron", "expression": "0 3 * * *"}          {"kind": "rrule", "expression": "FREQ=…", "start"?: local time}
"""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any

from jobworker.domain.calendars.calendars import WEEKDAYS
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.json.json_reader import JsonObjectReader
from jobworker.domain.schedules.rules import cron_errors, rrule_parser
from jobworker.domain.schedules.rules.calendar_days import (
    BusinessDayRule,
    DailyRule,
    MonthlyRule,
    RollConvention,
    WeeklyRule,
)
from jobworker.domain.schedules.rules.cron import CronRule
from jobworker.domain.schedules.rules.fixed import EPOCH, IntervalRule, OnceRule
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.timetable import Rule

#: Minimum interval (s), because RedBeat stores due times in whole seconds.
MIN_INTERVAL_SECONDS = 1.0

#: Maximum interval (s): a longer one is a typing error, and due times that far away cannot be represented.
MAX_INTERVAL_SECONDS = 3660 * 24 * 3600.0

_MAX_EXPRESSION_LENGTH = 255
_MAX_BUSINESS_DAYS = 23
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?\Z", re.ASCII)

#: Default start of an RRULE; a Monday.
_DEFAULT_RRULE_START = dt.datetime.combine(dt.date(2024, 1, 1), dt.time())


def parse(value: object, where: str = "/rule") -> Rule:
    """Return the rule in a JSON object. Raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    kind = read.get_choice("kind", list(_PARSERS), "")
    if not kind:
        if isinstance(value, Mapping) and read.get_value("kind") is None:
            read.add_problem("kind", "missing", f"kind is required; it is one of {', '.join(_PARSERS)}")
        raise _build_invalid_input(read.problems)
    rule = _PARSERS[kind](read)
    read.finish()
    assert rule is not None, "a rule that cannot be read has left its problem"
    return rule


def _parse_once(reader: JsonObjectReader) -> Rule | None:
    at = parse_moment(reader, "at")
    if at is not None and at.year == dt.MAXYEAR:
        # Closer to the end of the calendar, a zone's offset or a grace would lead out of it.
        reader.add_problem("at", "not_allowed", "at must lie before the year 9999")
    reader.require("at")
    return OnceRule(at) if at else None


def _parse_interval(reader: JsonObjectReader) -> Rule | None:
    reader.require("every")
    every = reader.get_seconds("every", MIN_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS)
    anchor = parse_moment(reader, "anchor") or EPOCH
    return IntervalRule(every, anchor) if every else None


def _parse_daily(reader: JsonObjectReader) -> Rule | None:
    time = _parse_time_of_day(reader)
    return DailyRule(time) if time else None


def _parse_weekly(reader: JsonObjectReader) -> Rule | None:
    reader.require("days")
    days = reader.get_texts("days", 9, len(WEEKDAYS))
    for at, day in enumerate(days):
        if day not in WEEKDAYS:
            reader.add_problem(
                f"days/{at}", "not_allowed", f"{day!r} is not a day of the week; the days are {', '.join(WEEKDAYS)}"
            )
    if reader.get_value("days") == []:
        reader.add_problem("days", "not_allowed", "days must name at least one day of the week")
    time = _parse_time_of_day(reader)
    chosen = frozenset(WEEKDAYS.index(day) for day in days if day in WEEKDAYS)
    return WeeklyRule(chosen, time) if chosen and time else None


def _parse_monthly(reader: JsonObjectReader) -> Rule | None:
    reader.require("day")
    value = reader.get_value("day")
    last, is_day = value == "last", isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 31
    day = value if is_day else None
    if value is not None and not last and not is_day:
        code = "not_allowed" if isinstance(value, int) and not isinstance(value, bool) else "wrong_type"
        reader.add_problem("day", code, 'day must be 1 to 31, or "last"')
    time = _parse_time_of_day(reader)
    return MonthlyRule(day, time) if time and (last or day) else None


def _parse_business_day(reader: JsonObjectReader) -> Rule | None:
    reader.require("n")
    number = reader.get_integer("n", -_MAX_BUSINESS_DAYS, _MAX_BUSINESS_DAYS)
    if number == 0:
        reader.add_problem("n", "not_allowed", "n counts from 1; -1 is the last business day of the month")
    roll = reader.get_choice("roll", list(RollConvention), "")
    time = _parse_time_of_day(reader)
    return BusinessDayRule(number, time, RollConvention(roll) if roll else None) if number and time else None


def _parse_cron(reader: JsonObjectReader) -> Rule | None:
    reader.require("expression")
    expression = reader.get_text("expression", _MAX_EXPRESSION_LENGTH)
    if expression is None:
        return None
    problem = cron_errors.describe_problem(expression)
    if problem:
        reader.add_problem("expression", "bad_cron", f"{expression!r} {problem}")
        return None
    return CronRule(expression)


def _parse_rrule(reader: JsonObjectReader) -> Rule | None:
    reader.require("expression")
    value = reader.get_value("expression")
    if isinstance(value, str) and "DTSTART" in value.upper():
        message = 'expression is the rule alone, such as FREQ=WEEKLY;BYDAY=MO; the time of DTSTART goes into "start"'
        reader.add_problem("expression", "bad_rrule", message)
        return None
    expression = reader.get_text("expression", _MAX_EXPRESSION_LENGTH)
    start = _parse_local_time(reader, "start") or _DEFAULT_RRULE_START
    if expression is None:
        return None
    try:
        rrule_parser.parse(expression)
    except ValueError as error:
        reader.add_problem("expression", "bad_rrule", f"{expression!r} is not a recurrence rule: {error}")
        return None
    rule = RRule(expression, start)
    if not rule.has_days():
        reader.add_problem("expression", "bad_rrule", f"{expression!r} names a day that none of its months has")
        return None
    return rule


_PARSERS: Mapping[str, Callable[[JsonObjectReader], Rule | None]] = {
    "once": _parse_once,
    "interval": _parse_interval,
    "daily": _parse_daily,
    "weekly": _parse_weekly,
    "monthly": _parse_monthly,
    "business_day": _parse_business_day,
    "cron": _parse_cron,
    "rrule": _parse_rrule,
}


def load_rule(spec: Mapping[str, Any]) -> Rule:
    """Create a rule from the output of `to_json`, without checks."""
    match spec["kind"]:
        case "once":
            rule: Rule = OnceRule(dt.datetime.fromisoformat(spec["at"]))
        case "interval":
            rule = IntervalRule(spec["every"], dt.datetime.fromisoformat(spec["anchor"]))
        case "daily":
            rule = DailyRule(dt.time.fromisoformat(spec["time"]))
        case "cron":
            rule = CronRule(spec["expression"])
        case _:
            # Other kinds of rules are rare.
            rule = parse(spec)
    return rule


def _parse_time_of_day(reader: JsonObjectReader) -> dt.time | None:
    value = reader.get_value("time")
    if value is None:
        reader.require("time")
        return None
    match = _TIME.match(value) if isinstance(value, str) else None
    if match is None:
        reader.add_problem("time", "wrong_type", 'time must be a time of day such as "06:00" or "18:30:15"')
        return None
    return dt.time(int(match[1]), int(match[2]), int(match[3] or 0))


def parse_moment(reader: JsonObjectReader, name: str) -> dt.datetime | None:
    """Return the moment (UTC) in a field."""
    moment = _parse_datetime(reader, name, "an RFC 3339 time such as 2026-01-31T12:00:00Z")
    if moment is None:
        return None
    if moment.tzinfo is None:
        reader.add_problem(name, "naive_time", f"{name} needs an offset, for example 2026-01-01T00:00:00Z")
        return None
    if moment.year > dt.MINYEAR:
        try:
            return moment.astimezone(dt.UTC)
        except OverflowError:
            pass
    reader.add_problem(name, "not_allowed", f"{name} is not within the years 2 to 9999 in UTC")
    return None


def _parse_local_time(reader: JsonObjectReader, name: str) -> dt.datetime | None:
    time = _parse_datetime(reader, name, "a time on the wall clock such as 2026-01-31T12:00:00")
    if time is not None and time.tzinfo is not None:
        reader.add_problem(
            name, "not_allowed", f"{name} is a time on the schedule's own clock: give it without an offset"
        )
        return None
    return time


def _parse_datetime(reader: JsonObjectReader, name: str, expected: str) -> dt.datetime | None:
    value = reader.get_value(name)
    if value is None:
        return None
    try:
        return dt.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        reader.add_problem(name, "wrong_type", f"{name} must be {expected}")
        return None


def _build_invalid_input(problems: list[FieldError]) -> InvalidInput:
    return InvalidInput("; ".join(problem.message for problem in problems), problems)
