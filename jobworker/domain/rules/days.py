"""Rules about days: a time of day, on some of them. Times are those of a wall clock (naive)."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jobworker.domain.calendars import Business

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

_DAY = dt.timedelta(days=1)

#: An occurrence is rolled by at most so many days; farther it would stand for something else.
_FARTHEST_ROLL = 31


@dataclass(frozen=True, slots=True)
class Daily:
    """Every day at `time`."""

    time: dt.time

    def times(self, begin: dt.datetime) -> Iterator[dt.datetime]:
        """The occurrences from `begin` on, ascending."""
        return _at(self.time, _days(begin.date()), begin)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "daily", "time": shown(self.time)}


@dataclass(frozen=True, slots=True)
class Weekly:
    """On these days of the week (0 is Monday) at `time`."""

    days: frozenset[int]
    time: dt.time

    def times(self, begin: dt.datetime) -> Iterator[dt.datetime]:
        """The occurrences from `begin` on, ascending."""
        chosen = (day for day in _days(begin.date()) if day.weekday() in self.days)
        return _at(self.time, chosen, begin)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "weekly", "days": [WEEKDAYS[day] for day in sorted(self.days)], "time": shown(self.time)}


@dataclass(frozen=True, slots=True)
class Monthly:
    """On this day of each month at `time`; None is the last. Months without that day are left out."""

    day: int | None
    time: dt.time

    def times(self, begin: dt.datetime) -> Iterator[dt.datetime]:
        """The occurrences from `begin` on, ascending."""
        return _at(self.time, self._chosen(begin.date()), begin)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "monthly", "day": "last" if self.day is None else self.day, "time": shown(self.time)}

    def _chosen(self, begin: dt.date) -> Iterator[dt.date]:
        for first in months(begin):
            last = _last_of_month(first)
            if self.day is None:
                yield last
            elif self.day <= last.day:
                yield first.replace(day=self.day)


class Roll(StrEnum):
    """Where an occurrence goes when its day is closed at that time, or its month has too few business days.

    modified_following: forward, unless that leads into the next month; then back.
    """

    FOLLOWING = "following"
    PRECEDING = "preceding"
    MODIFIED_FOLLOWING = "modified_following"


@dataclass(frozen=True, slots=True)
class BusinessDay:
    """The `number`-th business day of each month, as `calendar` counts them, at `time`; -1 is the last.

    `allowed` tells whether the schedule may fire at a time; one that it may not fire at is rolled to another business
    day, or left out if `roll` is None.
    """

    number: int
    time: dt.time
    roll: Roll | None = None
    calendar: Business = field(default_factory=Business)
    allowed: Callable[[dt.datetime], bool] = field(default=lambda _: True, compare=False, repr=False)

    def times(self, begin: dt.datetime) -> Iterator[dt.datetime]:
        """The occurrences from `begin` on, ascending."""
        # What was rolled may come from the month before, or the one behind.
        earlier = (begin.date().replace(day=1) - _DAY).replace(day=1)
        return _at(self.time, self._chosen(earlier), begin)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        roll = self.roll.value if self.roll else None
        return {"kind": "business_day", "n": self.number, "time": shown(self.time), "roll": roll}

    def _chosen(self, begin: dt.date) -> Iterator[dt.date]:
        latest = dt.date.min
        for first in months(begin):
            day = self._of_month(first)
            # Two months can roll onto the same day; it is one occurrence.
            if day is not None and day > latest:
                latest = day
                yield day

    def _of_month(self, first: dt.date) -> dt.date | None:
        days = self.calendar.business_days(first)
        if not days:
            return None
        if abs(self.number) <= len(days):
            day = days[self.number - 1 if self.number > 0 else self.number]
            return day if self._open(day) else self._rolled(day)
        # The month has fewer business days: the wanted one would lie behind its end, or before its beginning.
        return self._rolled(_last_of_month(first) + _DAY if self.number > 0 else first - _DAY, first)

    def _rolled(self, day: dt.date, month: dt.date | None = None) -> dt.date | None:
        month = month or day
        if self.roll is None:
            return None
        if self.roll is Roll.PRECEDING:
            return self._nearest(day, -_DAY)
        found = self._nearest(day, _DAY)
        leaves = found is None or (found.year, found.month) != (month.year, month.month)
        return self._nearest(day, -_DAY) if leaves and self.roll is Roll.MODIFIED_FOLLOWING else found

    def _nearest(self, day: dt.date, step: dt.timedelta) -> dt.date | None:
        for _ in range(_FARTHEST_ROLL):
            if self.calendar.is_business_day(day) and self._open(day):
                return day
            day += step
        return None

    def _open(self, day: dt.date) -> bool:
        return self.allowed(dt.datetime.combine(day, self.time))


def shown(time: dt.time) -> str:
    """`06:00`, or with seconds if there are any."""
    return time.isoformat("seconds" if time.second else "minutes")


def months(begin: dt.date) -> Iterator[dt.date]:
    """The first days of the months from that of `begin` on, until years end."""
    year, month = begin.year, begin.month
    while year <= dt.MAXYEAR:
        yield dt.date(year, month, 1)
        year, month = (year + 1, 1) if month == len(_MONTHS) else (year, month + 1)


_MONTHS = range(1, 13)


def _last_of_month(first: dt.date) -> dt.date:
    # Day 28 exists in every month, and four days later is the next one.
    return (first.replace(day=28) + 4 * _DAY).replace(day=1) - _DAY


def _days(begin: dt.date) -> Iterator[dt.date]:
    day = begin
    while day < dt.date.max:
        yield day
        day += _DAY


def _at(time: dt.time, days: Iterator[dt.date], begin: dt.datetime) -> Iterator[dt.datetime]:
    for day in days:
        found = dt.datetime.combine(day, time)
        if found >= begin:
            yield found
