"""Rules about days: a time of day, on some of them. Times are those of a wall clock (naive)."""

import calendar
import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jobworker.domain.calendars.calendars import WEEKDAYS, BusinessCalendar

_DAY = dt.timedelta(days=1)
_MONTH = dt.timedelta(days=31)

#: Nothing is rolled from before the calendar begins.
_SECOND_QUARTER = dt.date(1, 4, 1)

#: So many months are looked through for a business day that may never come.
_MAX_MONTHS = 120

#: An occurrence is rolled by at most so many days; farther it would stand for something else.
_MAX_ROLL_DAYS = 31


@dataclass(frozen=True, slots=True)
class DailyRule:
    """Every day at `time`."""

    time: dt.time

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """The first time from `begin` on."""
        return dt.datetime.combine(_find_day_from(begin, self.time), self.time)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "daily", "time": format_time(self.time)}


@dataclass(frozen=True, slots=True)
class WeeklyRule:
    """On these days of the week (0 is Monday) at `time`."""

    days: frozenset[int]
    time: dt.time

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """The first time from `begin` on."""
        day = _find_day_from(begin, self.time)
        while day.weekday() not in self.days:
            day += _DAY
        return dt.datetime.combine(day, self.time)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "weekly", "days": [WEEKDAYS[day] for day in sorted(self.days)], "time": format_time(self.time)}


@dataclass(frozen=True, slots=True)
class MonthlyRule:
    """On this day of each month at `time`; None is the last. Months without that day are left out."""

    day: int | None
    time: dt.time

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """The first time from `begin` on."""
        earliest = _find_day_from(begin, self.time)
        chosen = (self._find_day_of_month(first) for first in iterate_months(earliest))
        day = next(day for day in chosen if day is not None and day >= earliest)
        return dt.datetime.combine(day, self.time)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return {"kind": "monthly", "day": "last" if self.day is None else self.day, "time": format_time(self.time)}

    def _find_day_of_month(self, first: dt.date) -> dt.date | None:
        last = calendar.monthrange(first.year, first.month)[1]
        day = last if self.day is None else self.day
        return first.replace(day=day) if day <= last else None


class RollConvention(StrEnum):
    """Where an occurrence goes when its day is closed at that time, or its month has too few business days.

    modified_following: forward, unless that leads into the next month; then back.
    """

    FOLLOWING = "following"
    PRECEDING = "preceding"
    MODIFIED_FOLLOWING = "modified_following"


@dataclass(frozen=True, slots=True)
class BusinessDayRule:
    """The `number`-th business day of each month, as `calendar` counts them, at `time`; -1 is the last.

    `roll` says where it goes when it is not `allowed` at its time, or the month has too few business days; with None
    it stays in the first case, and is left out in the second.
    """

    number: int
    time: dt.time
    roll: RollConvention | None = None
    calendar: BusinessCalendar = field(default_factory=BusinessCalendar)
    allowed: Callable[[dt.datetime], bool] = field(default=lambda _: True, compare=False, repr=False)

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """The first time from `begin` on; None: there is none within ten years."""
        earliest = _find_day_from(begin, self.time)
        # What is rolled may come from two months before, and be overtaken by what comes from two months behind.
        begin_of_search = max(earliest, _SECOND_QUARTER) - 2 * _MONTH
        days = (
            self._find_day_of_month(first) for first in itertools.islice(iterate_months(begin_of_search), _MAX_MONTHS)
        )
        ahead = (day for day in days if day is None or day >= earliest)
        found = next((day for day in ahead if day is not None), None)
        if found is None:
            return None
        nearest = min([found, *(day for day in itertools.islice(ahead, 2) if day is not None)])
        return dt.datetime.combine(nearest, self.time)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        roll = self.roll.value if self.roll else None
        return {"kind": "business_day", "n": self.number, "time": format_time(self.time), "roll": roll}

    def _find_day_of_month(self, first: dt.date) -> dt.date | None:
        days = self.calendar.list_business_days(first)
        if not days:
            return None
        if abs(self.number) <= len(days):
            day = days[self.number - 1 if self.number > 0 else self.number]
            return day if self.roll is None or self._is_open(day) else self._roll(day, day, day)
        # The month has fewer business days: the wanted one would lie between its last day and the next month's first,
        # or between its first day and the last one of the month before.
        behind = _get_last_of_month(first) + _DAY if self.number > 0 else first
        return self._roll(behind - _DAY, behind, first)

    def _roll(self, back: dt.date, forth: dt.date, month: dt.date) -> dt.date | None:
        """The nearest open business day: `back` or before it, `forth` or behind it."""
        if self.roll is None:
            return None
        if self.roll is RollConvention.PRECEDING:
            return self._find_nearest_open_day(back, -_DAY)
        found = self._find_nearest_open_day(forth, _DAY)
        leaves = found is None or (found.year, found.month) != (month.year, month.month)
        return (
            self._find_nearest_open_day(back, -_DAY)
            if leaves and self.roll is RollConvention.MODIFIED_FOLLOWING
            else found
        )

    def _find_nearest_open_day(self, day: dt.date, step: dt.timedelta) -> dt.date | None:
        for _ in range(_MAX_ROLL_DAYS):
            if self.calendar.is_business_day(day) and self._is_open(day):
                return day
            day += step
        return None

    def _is_open(self, day: dt.date) -> bool:
        return self.allowed(dt.datetime.combine(day, self.time))


def format_time(time: dt.time) -> str:
    """`06:00`, or with seconds if there are any."""
    return time.isoformat("seconds" if time.second else "minutes")


def iterate_months(begin: dt.date) -> Iterator[dt.date]:
    """The first days of the months from that of `begin` on, until years end."""
    year, month = begin.year, begin.month
    while year <= dt.MAXYEAR:
        yield dt.date(year, month, 1)
        year, month = (year + 1, 1) if month == len(_MONTHS) else (year, month + 1)


_MONTHS = range(1, 13)


def _get_last_of_month(first: dt.date) -> dt.date:
    # Day 28 exists in every month, and four days later is the next one.
    return (first.replace(day=28) + 4 * _DAY).replace(day=1) - _DAY


def _find_day_from(begin: dt.datetime, time: dt.time) -> dt.date:
    """The first day on which `time` is at `begin` or later."""
    day = begin.date()
    return day if begin.time() <= time else day + _DAY
