"""Rules of schedules as Python functions: `daily("02:00")` returns the JSON object that the API accepts.

Times of day are texts such as "02:00" or values of `datetime.time`. Moments are texts (RFC 3339) or aware values of
`datetime`. Intervals are seconds, values of `timedelta` or texts (ISO 8601). Errors in a rule are reported where the
rule is used: by `schedule`, or by `@job`.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

#: A rule as JSON; `domain.schedules.rules.rule_parser` lists the kinds.
RuleJson = dict[str, Any]

DateTimeLike = str | dt.datetime
TimeOfDayLike = str | dt.time
DurationLike = float | str | dt.timedelta


def once(at: DateTimeLike) -> RuleJson:
    """Return the rule for one moment: `once("2030-01-31T12:00:00+01:00")`."""
    return _make_rule("once", at=at)


def every(interval: DurationLike, *, anchor: DateTimeLike | None = None) -> RuleJson:
    """Return the rule for a fixed interval: `every(300)`, `every("PT5M")`, `every(timedelta(minutes=5))`.

    The interval is counted from `anchor` (1970).
    """
    return _make_rule("interval", every=interval, anchor=anchor)


def daily(time: TimeOfDayLike) -> RuleJson:
    """Return the rule for a time of each day: `daily("02:00")`."""
    return _make_rule("daily", time=time)


def weekly(days: str | Iterable[str], time: TimeOfDayLike) -> RuleJson:
    """Return the rule for days of the week: `weekly("friday", "17:00")`, `weekly(["monday", "thursday"], "08:30")`."""
    return _make_rule("weekly", days=[days] if isinstance(days, str) else list(days), time=time)


def monthly(day: int | str, time: TimeOfDayLike) -> RuleJson:
    """Return the rule for a day of each month that has it, or for its "last" day: `monthly("last", "18:00")`."""
    return _make_rule("monthly", day=day, time=time)


def business_day(n: int, time: TimeOfDayLike, *, roll: str | None = None) -> RuleJson:
    """Return the rule for the n-th business day of each month, or -1 for the last: `business_day(-1, "18:00")`.

    `roll` is "following", "preceding" or "modified_following".
    """
    return _make_rule("business_day", n=n, time=time, roll=roll)


def cron(expression: str) -> RuleJson:
    """Return the rule of a cron expression with 5 fields, or 6 with seconds first: `cron("*/15 8-18 * * 1-5")`."""
    return _make_rule("cron", expression=expression)


def rrule(expression: str, *, start: DateTimeLike | None = None) -> RuleJson:
    """Return the rule of a recurrence (RFC 5545): `rrule("FREQ=WEEKLY;INTERVAL=2")`.

    The recurrence is counted from the local time `start`.
    """
    return _make_rule("rrule", expression=expression, start=start)


def to_json_value(value: Any) -> Any:
    """Return the value as JSON: times and dates as texts, durations as seconds, any collection as a list."""
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {_to_json_key(name): to_json_value(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(to_json_value, value))
    if isinstance(value, list | tuple):
        return [to_json_value(item) for item in value]
    return value


def _to_json_key(name: Any) -> Any:
    return name.isoformat() if isinstance(name, dt.date) else name


def _make_rule(kind: str, **fields: Any) -> RuleJson:
    return {"kind": kind, **{name: to_json_value(value) for name, value in fields.items() if value is not None}}
