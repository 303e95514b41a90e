"""Rules that name a time of day on certain days. Times are those of a wall clock (naive)."""

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

#: Earliest day for a search that begins two months before: no occurrence is rolled from before the year 1.
_SECOND_QUARTER = dt.date(1, 4, 1)

#: Maximum number of months that are searched for a business day.
_MAX_MONTHS = 120

#: Maximum number of days that an occurrence is rolled by; a farther day would belong to another occurrence.
_MAX_ROLL_DAYS = 31


@dataclass(frozen=True, slots=True)
class DailyRule:
    """A rule that is due every day at `time`."""

    time: dt.time

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """Return the first time from `begin` on."""
        return dt.datetime.combine(_find_day_from(begin, self.time), self.time)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"kind": "daily", "time": format_time(self.time)}


@dataclass(frozen=True, slots=True)
class WeeklyRule:
    """A rule that is due on these days of the week (0 is Monday) at `time`."""

    days: frozenset[int]
    time: dt.time

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """Return the first time from `begin` on."""
        day = _find_day_from(begin, self.time)
        while day.weekday() not in self.days:
            day += _DAY
        return dt.datetime.combine(day, self.time)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"kind": "weekly", "days": [WEEKDAYS[day] for day in sorted(self.days)], "time": format_time(self.time)}


@dataclass(frozen=True, slots=True)
class MonthlyRule:
    """A rule that is due on this day of each month at `time`; None is the last day.

    Months without that day are left out.
    """

    day: int | None
    time: dt.time

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """Return the first time from `begin` on."""
        earliest = _find_day_from(begin, self.time)
        chosen = (self._find_day_of_month(first) for first in iterate_months(earliest))
        day = next(day for day in chosen if day is not None and day >= earliest)
        return dt.datetime.combine(day, self.time)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"kind": "monthly", "day": "last" if self.day is None else self.day, "time": format_time(self.time)}

    def _find_day_of_month(self, first: dt.date) -> dt.date | None:
        last = calendar.monthrange(first.year, first.month)[1]
        day = last if self.day is None else self.day
        return first.replace(day=day) if day <= last else None


class RollConvention(StrEnum):
    """Direction of the roll if a day is closed at the rule's time, or its month has too few business days.

    modified_following: forward, unless that leads into the next month; then back.
    """

    FOLLOWING = "following"
    PRECEDING = "preceding"
    MODIFIED_FOLLOWING = "modified_following"


@dataclass(frozen=True, slots=True)
class BusinessDayRule:
    """A rule that is due on the `number`-th business day of each month at `time`; -1 is the last.

    `calendar` counts the business days. `roll` is the direction if the day is not `allowed` at its time, or the month
    has too few business days. Without `roll`, the occurrence stays on its day in the first case, and is left out in the
    second.
    """

    number: int
    time: dt.time
    roll: RollConvention | None = None
    calendar: BusinessCalendar = field(default_factory=BusinessCalendar)
    allowed: Callable[[dt.datetime], bool] = field(default=lambda _: True, compare=False, repr=False)

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """Return the first time from `begin` on; None without a time within ten years."""
        earliest = _find_day_from(begin, self.time)
        # A rolled day may belong to a month two months earlier, and a day of a month two months later may precede it.
        begin_of_search = max(earliest, _SECOND_QUARTER) - 2 * _MONTH
        days = (
            self._find_day_of_month(first) for first in itertools.islice(iterate_months(begin_of_search), _MAX_MONTHS)
        )
        ahead = (day for day in days if day is None or day >= earliest)
        first_day = next((day for day in ahead if day is not None), None)
        if first_day is None:
            return None
        nearest = min([first_day, *(day for day in itertools.islice(ahead, 2) if day is not None)])
        return dt.datetime.combine(nearest, self.time)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        roll = self.roll.value if self.roll else None
        return {"kind": "business_day", "n": self.number, "time": format_time(self.time), "roll": roll}

    def _find_day_of_month(self, first: dt.date) -> dt.date | None:
        days = self.calendar.list_business_days(first)
        if not days:
            return None
        if abs(self.number) <= len(days):
            day = days[self.number - 1 if self.number > 0 else self.number]
            return day if self.roll is None or self._is_open(day) else self._roll(day, day, day)
        # The month has fewer business days: the requested day would be between its last day and the next month's first,
        # or between its first day and the last one of the month before.
        behind = _get_last_of_month(first) + _DAY if self.number > 0 else first
        return self._roll(behind - _DAY, behind, first)

    def _roll(self, back: dt.date, forth: dt.date, month: dt.date) -> dt.date | None:
        """Return the nearest open business day: `back` or before it, or `forth` or after it, depending on `roll`."""
        if self.roll is None:
            return None
        if self.roll is RollConvention.PRECEDING:
            return self._find_nearest_open_day(back, -_DAY)
        following_day = self._find_nearest_open_day(forth, _DAY)
        leaves = following_day is None or (following_day.year, following_day.month) != (month.year, month.month)
        return (
            self._find_nearest_open_day(back, -_DAY)
            if leaves and self.roll is RollConvention.MODIFIED_FOLLOWING
            else following_day
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
    """Return the time as `06:00`, or with seconds if there are any."""
    return time.isoformat("seconds" if time.second else "minutes")


def iterate_months(begin: dt.date) -> Iterator[dt.date]:
    """Yield the first days of the months from that of `begin` on, up to the year 9999."""
    year, month = begin.year, begin.month
    while year <= dt.MAXYEAR:
        yield dt.date(year, month, 1)
        year, month = (year + 1, 1) if month == len(_MONTHS) else (year, month + 1)


_MONTHS = range(1, 13)


def _get_last_of_month(first: dt.date) -> dt.date:
    # Day 28 exists in every month, and four days later is the next one.
    return (first.replace(day=28) + 4 * _DAY).replace(day=1) - _DAY


def _find_day_from(begin: dt.datetime, time: dt.time) -> dt.date:
    """Return the first day on which `time` is at `begin` or later."""
    day = begin.date()
    return day if begin.time() <= time else day + _DAY
