"""Cron expressions, on a wall clock (naive times). cronsim parses them and matches their days."""

import datetime as dt
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import cronsim

#: Nicknames of cron expressions.
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

#: Maximum number of years that are searched for an occurrence.
_MAX_YEARS_AHEAD = 50

_DAY = dt.timedelta(days=1)
_SECOND = dt.timedelta(seconds=1)
_NOTHING = dt.timedelta(0)

#: The start time that cronsim requires to parse an expression.
_ANY_TIME = dt.datetime.combine(dt.date(2000, 1, 1), dt.time())


@dataclass(frozen=True, slots=True)
class CronRule:
    """A cron expression of 5 fields, or 6 with the seconds first; may contain `L`, `LW`, `5L`, `5#2`, or be `@daily`.

    If neither the day of month nor the day of week begins with a star, either is enough, as in Debian's cron.
    """

    expression: str

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """Return the first time from `begin` on; None without a time within 50 years."""
        fields = _parse_fields(self.expression)
        whole = begin.replace(microsecond=0) + (_SECOND if begin.microsecond else _NOTHING)
        today = whole.date()
        if fields.is_matching_day(today) and (time := fields.find_time_from(whole.time())) is not None:
            return dt.datetime.combine(today, time)
        day = fields.find_day_from(today + _DAY)
        return dt.datetime.combine(day, fields.earliest) if day else None

    def is_frequent(self) -> bool:
        """Return whether the rule is sub-daily: every few minutes, or every hour."""
        minute, hour = expand_nickname(self.expression).split()[-5:-3]
        return minute.startswith("*") or hour.startswith("*")

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"kind": "cron", "expression": self.expression}


def expand_nickname(expression: str) -> str:
    """Return the fields of a nickname such as `@daily`."""
    return NICKNAMES.get(expression.strip().lower(), expression)


def check_expression(expression: str) -> None:
    """Raise `cronsim.CronSimError` if the expression is invalid, or names a day that does not exist."""
    _parse_fields(expression)


@dataclass(frozen=True, slots=True)
class _CronFields:
    """The fields of an expression. cronsim's own search takes five times as long because it steps minute by minute."""

    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...]
    months: frozenset[int]
    matches: Callable[[dt.date], bool]

    @property
    def earliest(self) -> dt.time:
        """The first time of a day."""
        return dt.time(self.hours[0], self.minutes[0], self.seconds[0])

    def is_matching_day(self, day: dt.date) -> bool:
        return day.month in self.months and self.matches(day)

    def find_time_from(self, time: dt.time) -> dt.time | None:
        """Return the first time of the day that is `time` or later."""
        hour, minute = time.hour, time.minute
        if hour in self.hours:
            if minute in self.minutes and (second := _find_from(self.seconds, time.second)) is not None:
                return dt.time(hour, minute, second)
            if (later := _find_from(self.minutes, minute + 1)) is not None:
                return dt.time(hour, later, self.seconds[0])
        following = _find_from(self.hours, hour + 1)
        return None if following is None else dt.time(following, self.minutes[0], self.seconds[0])

    def find_day_from(self, day: dt.date) -> dt.date | None:
        """Return the first matching day, `day` or later."""
        last = day.year + _MAX_YEARS_AHEAD
        while day.year <= last:
            if day.month not in self.months:
                day = (day.replace(day=1) + 31 * _DAY).replace(day=1)
            elif self.matches(day):
                return day
            else:
                day += _DAY
        return None


@functools.lru_cache(maxsize=4096)
def _parse_fields(expression: str) -> _CronFields:
    read = cronsim.CronSim(expand_nickname(expression), _ANY_TIME)
    hours, minutes, seconds = (tuple(sorted(numbers)) for numbers in (read.hours, read.minutes, read.seconds))
    return _CronFields(hours, minutes, seconds, frozenset(read.months), read.match_day)


def _find_from(numbers: Iterable[int], lowest: int) -> int | None:
    return next((number for number in numbers if number >= lowest), None)
