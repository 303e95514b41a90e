"""Spans of time in text form: `01:00-04:00` is each day, `2026-03-28T22:00Z/2026-03-29T04:00Z` is once.

Times without an offset are on the wall clock of a zone.
"""

import datetime as dt
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass

_DAILY = re.compile(r"(\d{2}:\d{2}(?::\d{2})?)-(\d{2}:\d{2}(?::\d{2})?)\Z", re.ASCII)

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Outage:
    """A span [begin, end) in which schedules are not evaluated; aware, in UTC."""

    begin: dt.datetime
    end: dt.datetime


def parse_moment(value: str | dt.date, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """Return a date (its midnight) or a time, given as text or as a value.

    Raises `ValueError` with the accepted form.
    """
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} must be a date such as 2026-03-28, or a time: 2026-03-28T22:00Z") from None
    if not isinstance(value, dt.datetime):
        value = dt.datetime.combine(value, dt.time(), zone)
    return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(dt.UTC)


def parse_outages(text: str, begin: dt.datetime, end: dt.datetime, zone: zoneinfo.ZoneInfo) -> list[Outage]:
    """Return the outages in a text between two moments. Raises `ValueError` with the accepted form."""
    daily = _DAILY.match(text)
    if daily:
        return list(_iterate_daily_outages(_parse_time(daily[1]), _parse_time(daily[2]), begin, end, zone))
    first, slash, last = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} must be times of each day such as 01:00-04:00, or BEGIN/END with dates")
    return [create_outage(parse_moment(first, zone), parse_moment(last, zone))]


def is_time_of_day(text: str) -> bool:
    """Return whether a text has the form of a time of day: `01:00`."""
    return _DAILY.match(f"{text}-{text}") is not None


def create_outage(begin: dt.datetime, end: dt.datetime) -> Outage:
    """Return an outage. Raises `ValueError` unless the end is after the begin."""
    if end <= begin:
        raise ValueError(f"an outage must end later than {begin.isoformat()}, when it begins")
    return Outage(begin, end)


def _parse_time(text: str) -> dt.time:
    try:
        return dt.time.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time of day such as 01:00") from None


def _iterate_daily_outages(
    first: dt.time, last: dt.time, begin: dt.datetime, end: dt.datetime, zone: zoneinfo.ZoneInfo
) -> Iterator[Outage]:
    """Yield the outage of each day from `first` to `last`, over midnight if `last` is earlier."""
    if first == last:
        raise ValueError(f"an outage from {first} to {last} is the whole day; give BEGIN/END with dates")
    day = begin.astimezone(zone).date() - _DAY
    while day <= end.astimezone(zone).date():
        outage = Outage(
            dt.datetime.combine(day, first, zone).astimezone(dt.UTC),
            dt.datetime.combine(day + _DAY if last < first else day, last, zone).astimezone(dt.UTC),
        )
        # A change of the clocks may skip the whole outage.
        if outage.begin < min(outage.end, end) and outage.end > begin:
            yield outage
        day += _DAY
