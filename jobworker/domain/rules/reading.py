"""Rules as JSON: what somebody writes becomes a rule, or an error that says where and what would be right.

{"kind": "once", "at": RFC 3339}                     {"kind": "interval", "every": seconds, "anchor"?: RFC 3339}
{"kind": "daily", "time": "06:00"}                   {"kind": "weekly", "days": ["monday", …], "time"}
{"kind": "monthly", "day": 1 to 31 | "last", "time"} {"kind": "business_day", "n": 10 | -1, "time", "roll"?}
{"kind": "cron", "expression": "0 3 * * *"}          {"kind": "rrule", "expression": "FREQ=…", "start"?: local time}
"""

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any

from jobworker.domain.calendars import WEEKDAYS
from jobworker.domain.described import Described
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.rules import cron_reading, rrule_reading
from jobworker.domain.rules.cron import Cron
from jobworker.domain.rules.days import BusinessDay, Daily, Monthly, Roll, Weekly
from jobworker.domain.rules.moments import EPOCH, Interval, Once
from jobworker.domain.rules.recurrence import RRule
from jobworker.domain.timetable import Rule

#: RedBeat keeps due times in whole seconds; a shorter interval cannot be kept.
SHORTEST = 1.0

#: A longer interval is a typing error, and moments that far away cannot be expressed (s).
LONGEST = 3660 * 24 * 3600.0

_LONGEST_EXPRESSION = 255
_MOST_BUSINESS_DAYS = 23
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?\Z", re.ASCII)

#: Where an RRULE counts from when nobody says; a Monday.
_RRULE_START = dt.datetime.combine(dt.date(2024, 1, 1), dt.time())


def parse(given: object, where: str = "/rule") -> Rule:
    """The rule that a JSON object describes; raises `InvalidInput` with every problem."""
    read = Described(given, where)
    kind = read.get_choice("kind", list(_KINDS), "")
    if not kind:
        if isinstance(given, Mapping) and read.get_value("kind") is None:
            read.add_problem("kind", "missing", f"kind is required; it is one of {', '.join(_KINDS)}")
        raise _refusal(read.problems)
    rule = _KINDS[kind](read)
    read.finish()
    assert rule is not None, "a rule that cannot be read has left its problem"
    return rule


def _once(read: Described) -> Rule | None:
    at = moment(read, "at")
    if at is not None and at.year == dt.MAXYEAR:
        # Closer to the end of the calendar, a zone's offset or a grace would lead out of it.
        read.add_problem("at", "not_allowed", "at must lie before the year 9999")
    read.require("at")
    return Once(at) if at else None


def _interval(read: Described) -> Rule | None:
    read.require("every")
    every = read.get_seconds("every", SHORTEST, LONGEST)
    anchor = moment(read, "anchor") or EPOCH
    return Interval(every, anchor) if every else None


def _daily(read: Described) -> Rule | None:
    time = _time(read)
    return Daily(time) if time else None


def _weekly(read: Described) -> Rule | None:
    read.require("days")
    days = read.get_texts("days", 9, len(WEEKDAYS))
    for at, day in enumerate(days):
        if day not in WEEKDAYS:
            read.add_problem(f"days/{at}", "not_allowed", f"{day!r} is no day of the week; they are {', '.join(WEEKDAYS)}")
    if read.get_value("days") == []:
        read.add_problem("days", "not_allowed", "days must name at least one day of the week")
    time = _time(read)
    chosen = frozenset(WEEKDAYS.index(day) for day in days if day in WEEKDAYS)
    return Weekly(chosen, time) if chosen and time else None


def _monthly(read: Described) -> Rule | None:
    read.require("day")
    given = read.get_value("day")
    last, is_day = given == "last", isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= 31
    day = given if is_day else None
    if given is not None and not last and not is_day:
        code = "not_allowed" if isinstance(given, int) and not isinstance(given, bool) else "wrong_type"
        read.add_problem("day", code, 'day must be 1 to 31, or "last"')
    time = _time(read)
    return Monthly(day, time) if time and (last or day) else None


def _business_day(read: Described) -> Rule | None:
    read.require("n")
    number = read.get_integer("n", -_MOST_BUSINESS_DAYS, _MOST_BUSINESS_DAYS)
    if number == 0:
        read.add_problem("n", "not_allowed", "n counts from 1; -1 is the last business day of the month")
    roll = read.get_choice("roll", list(Roll), "")
    time = _time(read)
    return BusinessDay(number, time, Roll(roll) if roll else None) if number and time else None


def _cron(read: Described) -> Rule | None:
    read.require("expression")
    expression = read.get_text("expression", _LONGEST_EXPRESSION)
    if expression is None:
        return None
    problem = cron_reading.problem(expression)
    if problem:
        read.add_problem("expression", "bad_cron", f"{expression!r} {problem}")
        return None
    return Cron(expression)


def _rrule(read: Described) -> Rule | None:
    read.require("expression")
    given = read.get_value("expression")
    if isinstance(given, str) and "DTSTART" in given.upper():
        message = 'expression is the rule alone, such as FREQ=WEEKLY;BYDAY=MO; the time of DTSTART goes into "start"'
        read.add_problem("expression", "bad_rrule", message)
        return None
    expression = read.get_text("expression", _LONGEST_EXPRESSION)
    start = _local(read, "start") or _RRULE_START
    if expression is None:
        return None
    try:
        rrule_reading.read(expression)
    except ValueError as error:
        read.add_problem("expression", "bad_rrule", f"{expression!r} is not a recurrence rule: {error}")
        return None
    rule = RRule(expression, start)
    if not rule.has_days():
        read.add_problem("expression", "bad_rrule", f"{expression!r} names a day that none of its months has")
        return None
    return rule


_KINDS: Mapping[str, Callable[[Described], Rule | None]] = {
    "once": _once,
    "interval": _interval,
    "daily": _daily,
    "weekly": _weekly,
    "monthly": _monthly,
    "business_day": _business_day,
    "cron": _cron,
    "rrule": _rrule,
}


def stored(found: Mapping[str, Any]) -> Rule:
    """What `to_json` of a rule wrote; nothing is checked again."""
    match found["kind"]:
        case "once":
            rule: Rule = Once(dt.datetime.fromisoformat(found["at"]))
        case "interval":
            rule = Interval(found["every"], dt.datetime.fromisoformat(found["anchor"]))
        case "daily":
            rule = Daily(dt.time.fromisoformat(found["time"]))
        case "cron":
            rule = Cron(found["expression"])
        case _:
            # Few have the others.
            rule = parse(found)
    return rule


def _time(read: Described) -> dt.time | None:
    given = read.get_value("time")
    if given is None:
        read.require("time")
        return None
    found = _TIME.match(given) if isinstance(given, str) else None
    if found is None:
        read.add_problem("time", "wrong_type", 'time must be a time of day such as "06:00" or "18:30:15"')
        return None
    return dt.time(int(found[1]), int(found[2]), int(found[3] or 0))


def moment(read: Described, name: str) -> dt.datetime | None:
    """A moment in time (UTC), for a field of whatever has one."""
    found = _datetime(read, name, "an RFC 3339 time such as 2026-01-31T12:00:00Z")
    if found is None:
        return None
    if found.tzinfo is None:
        read.add_problem(name, "naive_time", f"{name} needs an offset, for example 2026-01-01T00:00:00Z")
        return None
    if found.year > dt.MINYEAR:
        try:
            return found.astimezone(dt.UTC)
        except OverflowError:
            pass
    read.add_problem(name, "not_allowed", f"{name} is not within the years 2 to 9999 in UTC")
    return None


def _local(read: Described, name: str) -> dt.datetime | None:
    found = _datetime(read, name, "a time on the wall clock such as 2026-01-31T12:00:00")
    if found is not None and found.tzinfo is not None:
        read.add_problem(name, "not_allowed", f"{name} is a time on the schedule's own clock: give it without an offset")
        return None
    return found


def _datetime(read: Described, name: str, expected: str) -> dt.datetime | None:
    given = read.get_value(name)
    if given is None:
        return None
    try:
        return dt.datetime.fromisoformat(given)
    except (TypeError, ValueError):
        read.add_problem(name, "wrong_type", f"{name} must be {expected}")
        return None


def _refusal(problems: list[FieldError]) -> InvalidInput:
    return InvalidInput("; ".join(problem.message for problem in problems), problems)
