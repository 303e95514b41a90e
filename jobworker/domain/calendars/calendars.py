"""Named calendars, which include certain times of certain days on a wall clock (naive times).

A *business* calendar includes working time: every day except weekends, holidays and other closed days, within business
hours if there are any. A *dates* calendar includes the listed days, windows of time, and holidays of countries. A
schedule may be restricted to the times that a calendar includes, or to those that it does not include.

As JSON (absent fields have their defaults; `domain.calendars.calendar_parser` parses it):

{"kind": "business", "description", "weekend": ["saturday", "sunday"], "holidays": [{"country": "DE", "subdivision"}],
 "closed": {"2026-12-24": "Christmas Eve"}, "opened": ["2026-12-19"], "hours": {"monday": ["09:00-12:30", …], …}}
{"kind": "dates", "description", "days": {"2026-12-24": "stocktaking"}, "holidays": […],
 "windows": [{"from": "2026-12-31T22:00", "to": "2027-01-01T06:00", "name": "year's end"}]}
"""

import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from jobworker.domain.calendars import public_holidays

_DAY = dt.timedelta(days=1)

#: Maximum distance of the next included or excluded time (days).
_MAX_DAYS_AHEAD = 3660

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

#: Begin and end within a day; `None` as the end is midnight.
TimeRange = tuple[dt.time, dt.time | None]


class Calendar(Protocol):
    """The interface of calendars for schedules."""

    kind: ClassVar[str]

    @property
    def description(self) -> str:
        """The description of the calendar for users."""
        ...

    def is_time_included(self, time: dt.datetime) -> bool:
        """Return whether the calendar includes this time."""
        ...

    def find_day_name(self, day: dt.date) -> str | None:
        """Return the name of a day in the calendar, if the day has one."""
        ...

    def get_time_ranges(self, day: dt.date) -> Sequence[TimeRange]:
        """Return the included times of a day, ascending."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        ...


@dataclass(frozen=True, slots=True)
class CountryHolidays:
    """The public holidays of a country, or of a subdivision of it (ISO 3166 codes)."""

    country: str
    subdivision: str | None = None

    def find_day_name(self, day: dt.date) -> str | None:
        """Return the name of the holiday on this day."""
        return public_holidays.get_holidays(self.country, self.subdivision, day.year).get(day)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"country": self.country, "subdivision": self.subdivision}


@dataclass(frozen=True, slots=True)
class BusinessCalendar:
    """Working time. `weekend` contains days of the week (0 is Monday); `opened` overrides all reasons to be closed.

    With `hours`, the days of the week without hours are closed; a day in `opened` without hours is open all day.
    """

    kind: ClassVar[str] = "business"
    weekend: frozenset[int] = frozenset({5, 6})
    holidays: Sequence[CountryHolidays] = ()
    closed: Mapping[dt.date, str] = field(default_factory=dict)
    opened: frozenset[dt.date] = frozenset()
    hours: Mapping[int, Sequence[TimeRange]] | None = None
    description: str = ""

    def is_business_day(self, day: dt.date) -> bool:
        """Return whether this day is a business day."""
        if day in self.opened:
            return True
        weekday = day.weekday()
        if weekday in self.weekend or (self.hours is not None and not self.hours.get(weekday)):
            return False
        return day not in self.closed and _find_holiday(self.holidays, day) is None

    def find_day_name(self, day: dt.date) -> str | None:
        """Return the name of the closed day or of the holiday; weekends have no name."""
        return self.closed.get(day) or _find_holiday(self.holidays, day)

    def get_time_ranges(self, day: dt.date) -> Sequence[TimeRange]:
        """Return the business hours of the day."""
        if not self.is_business_day(day):
            return ()
        return _WHOLE_DAY if self.hours is None else self.hours.get(day.weekday()) or _WHOLE_DAY

    def is_time_included(self, time: dt.datetime) -> bool:
        """Return whether this time is within business hours."""
        return _is_within(time.time(), self.get_time_ranges(time.date()))

    def list_business_days(self, first: dt.date) -> list[dt.date]:
        """Return the business days of the month that begins with `first`."""
        days = []
        day = first
        while day.month == first.month:
            if self.is_business_day(day):
                days.append(day)
            if day == dt.date.max:
                break
            day += _DAY
        return days

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        hours = self.hours
        return {
            "kind": self.kind,
            "description": self.description,
            "weekend": [WEEKDAYS[day] for day in sorted(self.weekend)],
            "holidays": [country_holidays.to_json() for country_holidays in self.holidays],
            "closed": _serialize_days(self.closed),
            "opened": [day.isoformat() for day in sorted(self.opened)],
            "hours": None
            if hours is None
            else {WEEKDAYS[day]: [format_time_range(part) for part in hours[day]] for day in sorted(hours)},
        }


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """The times from `begin` up to `end` (naive, `end` not included)."""

    begin: dt.datetime
    end: dt.datetime
    name: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"from": _format_local_time(self.begin), "to": _format_local_time(self.end), "name": self.name}


@dataclass(frozen=True, slots=True)
class DateCalendar:
    """Listed days and windows with their names, and holidays."""

    kind: ClassVar[str] = "dates"
    days: Mapping[dt.date, str] = field(default_factory=dict)
    windows: Sequence[CalendarWindow] = ()
    holidays: Sequence[CountryHolidays] = ()
    description: str = ""
    #: The windows without overlaps, by time, for lookups: their begins, and their ends.
    _begins: Sequence[dt.datetime] = field(init=False, repr=False, compare=False)
    _ends: Sequence[dt.datetime] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Merge the windows for lookups."""
        merged = _merge_windows(self.windows)
        object.__setattr__(self, "_begins", [begin for begin, _ in merged])
        object.__setattr__(self, "_ends", [end for _, end in merged])

    def find_day_name(self, day: dt.date) -> str | None:
        """Return the name of the listed day, of the holiday, or of a window that overlaps the day."""
        midnight = dt.datetime.combine(day, dt.time())
        touching = (window.name for window in self.windows if window.begin.date() <= day and window.end > midnight)
        return self.days.get(day) or _find_holiday(self.holidays, day) or next(touching, None)

    def get_time_ranges(self, day: dt.date) -> Sequence[TimeRange]:
        """Return the listed times of the day."""
        if day in self.days or _find_holiday(self.holidays, day) is not None:
            return _WHOLE_DAY
        return list(self._get_windows_on(day))

    def is_time_included(self, time: dt.datetime) -> bool:
        """Return whether this time is listed."""
        at = bisect_right(self._begins, time) - 1
        if at >= 0 and time < self._ends[at]:
            return True
        day = time.date()
        return day in self.days or _find_holiday(self.holidays, day) is not None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {
            "kind": self.kind,
            "description": self.description,
            "days": _serialize_days(self.days),
            "windows": [window.to_json() for window in sorted(self.windows, key=lambda window: window.begin)],
            "holidays": [country_holidays.to_json() for country_holidays in self.holidays],
        }

    def _get_windows_on(self, day: dt.date) -> Iterator[TimeRange]:
        midnight = dt.datetime.combine(day, dt.time())
        for at in range(bisect_right(self._ends, midnight), len(self._begins)):
            begin, end = self._begins[at], self._ends[at]
            if begin.date() > day:
                return
            yield begin.time() if begin > midnight else dt.time(), end.time() if end.date() == day else None


_WHOLE_DAY: Sequence[TimeRange] = ((dt.time(), None),)


def format_time_range(time_range: TimeRange) -> str:
    """Return the text of a part of a day: `09:00-17:00`."""
    begin, end = time_range
    return f"{_format_time(begin)}-{'24:00' if end is None else _format_time(end)}"


def find_next_included_time(calendar: Calendar, time: dt.datetime) -> dt.datetime | None:
    """Return the first time from `time` on that the calendar includes; None: not within ten years."""
    day = time.date()
    for _ in range(_MAX_DAYS_AHEAD):
        for begin, end in calendar.get_time_ranges(day):
            if day > time.date() or end is None or end > time.time():
                return max(time, dt.datetime.combine(day, begin))
        day += _DAY
    return None


def find_next_excluded_time(calendar: Calendar, time: dt.datetime) -> dt.datetime | None:
    """Return the first time from `time` on that the calendar does not include; None: not within ten years."""
    day, candidate = time.date(), time
    for _ in range(_MAX_DAYS_AHEAD):
        for begin, end in calendar.get_time_ranges(day):
            if dt.datetime.combine(day, begin) > candidate:
                return candidate
            if end is None:
                candidate = dt.datetime.combine(day + _DAY, dt.time())
            else:
                candidate = max(candidate, dt.datetime.combine(day, end))
        if candidate.date() == day:
            return candidate
        day += _DAY
    return None


def _is_within(time: dt.time, time_ranges: Sequence[TimeRange]) -> bool:
    return any(begin <= time and (end is None or time < end) for begin, end in time_ranges)


def _find_holiday(holidays: Iterable[CountryHolidays], day: dt.date) -> str | None:
    for country_holidays in holidays:
        if name := country_holidays.find_day_name(day):
            return name
    return None


def _merge_windows(windows: Iterable[CalendarWindow]) -> list[tuple[dt.datetime, dt.datetime]]:
    """Return begin and end of the merged windows, which neither overlap nor touch, by time."""
    merged: list[tuple[dt.datetime, dt.datetime]] = []
    for window in sorted(windows, key=lambda window: window.begin):
        if merged and window.begin <= merged[-1][1]:
            begin, end = merged.pop()
            merged.append((begin, max(end, window.end)))
        else:
            merged.append((window.begin, window.end))
    return merged


def _serialize_days(days: Mapping[dt.date, str]) -> dict[str, str]:
    return {day.isoformat(): days[day] for day in sorted(days)}


def _format_time(time: dt.time) -> str:
    return time.isoformat("seconds" if time.second else "minutes")


def _format_local_time(time: dt.datetime) -> str:
    return time.isoformat(timespec="seconds" if time.second else "minutes")
