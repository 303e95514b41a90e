"""Named calendars: which times of which days belong to them, on a wall clock (naive times).

A *business* calendar holds working time: every day but weekends, holidays and what else is closed, within business
hours if there are any. A *dates* calendar holds what is listed: days, windows of time, the holidays of a country.
A schedule may be kept to the times that a calendar holds, or away from them.
"""

import datetime as dt
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from holidays import HolidayBase

_DAY = dt.timedelta(days=1)

#: So far ahead is looked for the next time that a calendar holds (days).
_HORIZON = 3660

#: From one time to another of a day; `None` as the end is midnight.
Hours = tuple[dt.time, dt.time | None]


class Calendar(Protocol):
    """What schedules ask of a calendar."""

    def holds(self, time: dt.datetime) -> bool:
        """Whether this time belongs to it."""
        ...

    def name_of(self, day: dt.date) -> str | None:
        """What a day is called in it, if it has a name."""
        ...

    def parts(self, day: dt.date) -> Sequence[Hours]:
        """The times of a day that belong to it, ascending."""
        ...


@dataclass(frozen=True, slots=True)
class Holidays:
    """The public holidays of a country, or of a part of it (ISO 3166 codes); `country` None has none."""

    country: str | None = None
    subdivision: str | None = None

    def name_of(self, day: dt.date) -> str | None:
        """The name of the holiday on this day."""
        if self.country is None:
            return None
        found: str | None = _holidays(self.country, self.subdivision).get(day)
        return found


@dataclass(frozen=True, slots=True)
class Business:
    """Working time. `weekend` holds days of the week (0 is Monday); `opened` goes before everything that closes."""

    weekend: frozenset[int] = frozenset({5, 6})
    holidays: Holidays = Holidays()
    closed: Mapping[dt.date, str] = field(default_factory=dict)
    opened: frozenset[dt.date] = frozenset()
    hours: Mapping[int, Sequence[Hours]] | None = None

    def is_business_day(self, day: dt.date) -> bool:
        """Whether anybody works on this day."""
        if day in self.opened:
            return True
        return day.weekday() not in self.weekend and self.name_of(day) is None

    def name_of(self, day: dt.date) -> str | None:
        """Why the day is closed, weekends apart."""
        return self.closed.get(day) or self.holidays.name_of(day)

    def parts(self, day: dt.date) -> Sequence[Hours]:
        """The business hours of the day."""
        if not self.is_business_day(day):
            return ()
        return _WHOLE_DAY if self.hours is None else self.hours.get(day.weekday(), ())

    def holds(self, time: dt.datetime) -> bool:
        """Whether somebody works at this time."""
        return _within(time, self.parts(time.date()))

    def business_days(self, first: dt.date) -> list[dt.date]:
        """Those of the month that begins with `first`."""
        days = []
        day = first
        while day.month == first.month:
            if self.is_business_day(day):
                days.append(day)
            if day == dt.date.max:
                break
            day += _DAY
        return days


@dataclass(frozen=True, slots=True)
class Dates:
    """What is listed: days with their names, windows [from, to) with theirs, and holidays."""

    days: Mapping[dt.date, str] = field(default_factory=dict)
    windows: Sequence[tuple[dt.datetime, dt.datetime, str]] = ()
    holidays: Holidays = Holidays()

    def name_of(self, day: dt.date) -> str | None:
        """What the day, or a window that touches it, is called."""
        touching = (name for begin, end, name in self.windows if begin.date() <= day and _touches(day, end))
        return self.days.get(day) or self.holidays.name_of(day) or next(touching, None)

    def parts(self, day: dt.date) -> Sequence[Hours]:
        """The times of the day that are listed."""
        if day in self.days or self.holidays.name_of(day):
            return _WHOLE_DAY
        return sorted(self._windows_on(day), key=lambda hours: hours[0])

    def holds(self, time: dt.datetime) -> bool:
        """Whether this time is listed."""
        return _within(time, self.parts(time.date()))

    def _windows_on(self, day: dt.date) -> Iterator[Hours]:
        midnight = dt.datetime.combine(day, dt.time())
        for begin, end, _ in self.windows:
            if begin.date() <= day and end > midnight:
                starts = begin.time() if begin > midnight else dt.time()
                yield starts, end.time() if end.date() == day else None


_WHOLE_DAY: Sequence[Hours] = ((dt.time(), None),)


def next_inside(calendar: Calendar, time: dt.datetime) -> dt.datetime | None:
    """The first time from `time` on that the calendar holds; None: not within ten years."""
    day = time.date()
    for _ in range(_HORIZON):
        for begin, end in calendar.parts(day):
            if day > time.date() or end is None or end > time.time():
                return max(time, dt.datetime.combine(day, begin))
        day += _DAY
    return None


def next_outside(calendar: Calendar, time: dt.datetime) -> dt.datetime | None:
    """The first time from `time` on that the calendar does not hold; None: not within ten years."""
    day, found = time.date(), time
    for _ in range(_HORIZON):
        for begin, end in calendar.parts(day):
            if dt.datetime.combine(day, begin) > found:
                return found
            if end is None:
                found = dt.datetime.combine(day + _DAY, dt.time())
            else:
                found = max(found, dt.datetime.combine(day, end))
        if found.date() == day:
            return found
        day += _DAY
    return None


def _within(time: dt.datetime, parts: Sequence[Hours]) -> bool:
    return any(begin <= time.time() and (end is None or time.time() < end) for begin, end in parts)


def _touches(day: dt.date, end: dt.datetime) -> bool:
    return end > dt.datetime.combine(day, dt.time())


@functools.lru_cache(maxsize=256)
def _holidays(country: str, subdivision: str | None) -> "HolidayBase":
    # 10 to 20 MiB that most processes, workers above all, never need.
    import holidays

    # Years are worked out as they are asked for.
    return holidays.country_holidays(country, subdiv=subdivision)
