"""Rules as one writes them in Python: `daily("02:00")` is the JSON object that the API takes.

Times of day are texts such as "02:00" or `datetime.time`, moments RFC 3339 or aware `datetime`s, intervals seconds,
`timedelta`s or ISO 8601. What is wrong with a rule is said where it is used: by `schedule`, or by `@job`.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

#: A rule as JSON; `domain.schedules.rules.reading` says which there are.
RuleJson = dict[str, Any]

DateTimeLike = str | dt.datetime
TimeOfDayLike = str | dt.time
DurationLike = float | str | dt.timedelta


def once(at: DateTimeLike) -> RuleJson:
    """At this moment: `once("2030-01-31T12:00:00+01:00")`."""
    return _make_rule("once", at=at)


def every(interval: DurationLike, *, anchor: DateTimeLike | None = None) -> RuleJson:
    """Again and again, counted from `anchor` (1970): `every(300)`, `every("PT5M")`, `every(timedelta(minutes=5))`."""
    return _make_rule("interval", every=interval, anchor=anchor)


def daily(time: TimeOfDayLike) -> RuleJson:
    """Every day: `daily("02:00")`."""
    return _make_rule("daily", time=time)


def weekly(days: str | Iterable[str], time: TimeOfDayLike) -> RuleJson:
    """On these days of the week: `weekly("friday", "17:00")`, `weekly(["monday", "thursday"], "08:30")`."""
    return _make_rule("weekly", days=[days] if isinstance(days, str) else list(days), time=time)


def monthly(day: int | str, time: TimeOfDayLike) -> RuleJson:
    """On this day of each month that has it, or on the "last": `monthly("last", "18:00")`."""
    return _make_rule("monthly", day=day, time=time)


def business_day(n: int, time: TimeOfDayLike, *, roll: str | None = None) -> RuleJson:
    """On the n-th business day of each month, -1 is the last; `roll`: following, preceding or modified_following."""
    return _make_rule("business_day", n=n, time=time, roll=roll)


def cron(expression: str) -> RuleJson:
    """By a cron expression of 5 fields, or 6 with the seconds first: `cron("*/15 8-18 * * 1-5")`."""
    return _make_rule("cron", expression=expression)


def rrule(expression: str, *, start: DateTimeLike | None = None) -> RuleJson:
    """By a recurrence rule of RFC 5545, counted from the local time `start`: `rrule("FREQ=WEEKLY;INTERVAL=2")`."""
    return _make_rule("rrule", expression=expression, start=start)


def to_json_value(value: Any) -> Any:
    """As JSON has it: times, dates and durations as texts and seconds, any collection as a list."""
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {_to_json_key(name): to_json_value(each) for name, each in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(to_json_value, value))
    if isinstance(value, list | tuple):
        return [to_json_value(each) for each in value]
    return value


def _to_json_key(name: Any) -> Any:
    return name.isoformat() if isinstance(name, dt.date) else name


def _make_rule(kind: str, **fields: Any) -> RuleJson:
    return {"kind": kind, **{name: to_json_value(value) for name, value in fields.items() if value is not None}}
