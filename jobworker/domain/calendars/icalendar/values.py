"""Values of iCalendar properties (RFC 5545, section 3.3): dates, times, durations, periods, offsets and text.

Errors are `ValueError`; they contain the name of the property and the accepted form.
"""

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from jobworker.domain.calendars.icalendar.content_lines import ICalendarComponent, ICalendarProperty, quote_text

#: Allowed years of events; others are typing errors, and rules would have to be evaluated for centuries.
YEARS = range(1900, 2400)

#: Maximum length of an event (days).
MAX_EVENT_DAYS = 3660

#: Maximum COUNT of a rule; calendar programs offer up to 999.
MAX_RULE_COUNT = 10_000

#: Maximum length of a rule (characters): all the days of a year take less than 1,500.
_MAX_RULE_LENGTH = 1500

_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(Z?)", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)(\d\d)?", re.ASCII)
_DURATION = re.compile(
    r"([+-]?)P(?=[0-9T])(?:(\d{1,5})W)?(?:(\d{1,6})D)?(?:T(?=\d)(?:(\d{1,6})H)?(?:(\d{1,8})M)?(?:(\d{1,9})S)?)?",
    re.ASCII,
)
_ESCAPED = re.compile(r"\\(.)")

ZERO = dt.timedelta(0)
DAY = dt.timedelta(days=1)

DateOrDateTime = dt.date | dt.datetime
ZoneFinder = Callable[[str], dt.tzinfo]


@dataclass(frozen=True, slots=True)
class EventLength:
    """A length: days on the clock, then an exact time (RFC 5545, 3.3.6), which differ where clocks change."""

    days: int = 0
    exact: dt.timedelta = ZERO

    @property
    def sum(self) -> dt.timedelta:
        """The length where clocks do not change."""
        return self.days * DAY + self.exact


def parse_date_or_time(prop: ICalendarProperty, find_zone: ZoneFinder, years: range = YEARS) -> DateOrDateTime:
    """Return the day or the time of a property; a time has the zone that the property names, if any."""
    return _parse_date_or_time(prop.value.strip(), prop, find_zone, years)


def parse_date_list(
    component: ICalendarComponent, name: str, find_zone: ZoneFinder, years: range = YEARS
) -> list[tuple[DateOrDateTime, EventLength | None]]:
    """Return the values in the lists of this name; a period has a length of its own."""
    return [
        _parse_period(text.strip(), line, find_zone, years)
        for line in component.get_properties(name)
        for text in line.value.rstrip(",").split(",")
    ]


def to_naive(value: DateOrDateTime, tz: dt.tzinfo | None) -> dt.datetime:
    """Return a time on the clock of `tz`; a time without a zone, and a day, are taken as on that clock already."""
    if not isinstance(value, dt.datetime):
        return dt.datetime.combine(value, dt.time())
    if value.tzinfo is not None and tz is not None and value.tzinfo is not tz:
        value = value.astimezone(tz)
    return strip_time_zone(value)


def strip_time_zone(time: dt.datetime) -> dt.datetime:
    """Return a time without its zone, five times as fast as `replace`."""
    return dt.datetime.combine(time.date(), dt.time(time.hour, time.minute, time.second, time.microsecond))


def parse_duration(prop: ICalendarProperty) -> EventLength:
    """Return the length in a DURATION property."""
    return _parse_duration(prop.value.strip(), prop.name)


def parse_recurrence(prop: ICalendarProperty, find_zone: ZoneFinder) -> tuple[str, DateOrDateTime | None, int | None]:
    """Return a rule without UNTIL and COUNT, then UNTIL, then COUNT; UNTIL=99991231 is treated as no end."""
    ends: dict[str, str] = {}
    kept = []
    if len(prop.value) > _MAX_RULE_LENGTH:
        raise ValueError(f"{prop.name} has more than {_MAX_RULE_LENGTH} characters")
    for part in prop.value.strip().upper().rstrip(";").split(";"):
        name, _, value = part.partition("=")
        if name not in ("UNTIL", "COUNT"):
            kept.append(part)
        elif ends:
            raise ValueError(f"{prop.name} must have UNTIL or COUNT once, not both")
        else:
            ends[name] = value
    until, count = ends.get("UNTIL"), ends.get("COUNT")
    if count is not None and not (count.isascii() and count.isdecimal() and 0 < int(count[:9]) <= MAX_RULE_COUNT):
        raise ValueError(f"{prop.name}: COUNT must be 1 to {MAX_RULE_COUNT}")
    line = replace(prop, name=f"{prop.name}: UNTIL")
    last = None if until is None else _parse_date_or_time(until, line, find_zone, range(1, 10_000))
    endless = last is None or last.year >= YEARS.stop
    return ";".join(kept), None if endless else last, None if count is None else int(count)


def parse_offset(prop: ICalendarProperty | None, name: str) -> dt.timedelta:
    """Return an offset from UTC, such as +0100."""
    match = _OFFSET.fullmatch(prop.value.strip()) if prop else None
    if match is None:
        raise ValueError(f"{name} must be an offset such as +0100")
    size = dt.timedelta(hours=int(match[2]), minutes=int(match[3]), seconds=int(match[4] or 0))
    if size >= DAY:
        raise ValueError(f"{name} must be less than 24 hours")
    return -size if match[1] == "-" else size


def unescape_text(text: str) -> str:
    """Return a text without escapes; a line break becomes a space."""
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda match: " " if match[1] in "nN" else match[1], text)


def clean_text(value: str, max_length: int) -> str:
    """Return a text on one line, without escapes and unprintable characters."""
    plain = unescape_text(value[: 2 * max_length])
    if not plain.isprintable():
        plain = "".join(character if character.isprintable() else " " for character in plain)
    return plain.strip()[:max_length]


def _parse_date_or_time(value: str, prop: ICalendarProperty, find_zone: ZoneFinder, years: range) -> DateOrDateTime:
    name, kind, read = prop.name, prop.parameters.get("VALUE", "").upper(), None
    try:
        if kind != "DATE-TIME" and (match := _DATE.fullmatch(value)):
            read = dt.date(*(int(number) for number in match.groups()))
        elif kind != "DATE" and (match := _TIME.fullmatch(value)):
            read = _parse_time(*match.groups())
    except ValueError as error:
        raise ValueError(f"{name} is {quote_text(value)}, which does not exist: {error}") from None
    if read is None:
        right = {"DATE": "a day such as 20261224", "DATE-TIME": "a time such as 20261224T180000"}
        expected = right.get(kind, "a day such as 20261224, or a time such as 20261224T180000")
        raise ValueError(f"{name} is {quote_text(value)}; it must be {expected}")
    if read.year not in years:
        raise ValueError(f"{name} is not in {years.start} to {years.stop - 1}")
    zone = prop.parameters.get("TZID")
    if zone is None or not isinstance(read, dt.datetime):
        return read
    try:
        tz = find_zone(zone)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return read.replace(tzinfo=tz) if read.tzinfo is None else read.astimezone(tz)


def _parse_time(*parts: str) -> dt.datetime:
    year, month, day, hour, minute, second, utc = parts
    # A leap second is the last second of its minute.
    time = dt.time(int(hour), int(minute), 59 if second == "60" else int(second), tzinfo=dt.UTC if utc else None)
    return dt.datetime.combine(dt.date(int(year), int(month), int(day)), time)


def _parse_period(
    value: str, prop: ICalendarProperty, find_zone: ZoneFinder, years: range
) -> tuple[DateOrDateTime, EventLength | None]:
    """Return a time and None; for a period (`begin/end` or `begin/duration`) its begin and its length."""
    first, slash, second = value.partition("/")
    begin = _parse_date_or_time(first, prop, find_zone, years)
    if not slash:
        return begin, None
    if second[:1] in ("P", "+", "-"):
        length = _parse_duration(second, prop.name)
    else:
        length = EventLength(exact=_compute_distance(begin, _parse_date_or_time(second, prop, find_zone, years)))
    if not isinstance(begin, dt.datetime) or length.sum <= ZERO:
        raise ValueError(f"{prop.name} is {quote_text(value)}; a period begins with a time, and ends later")
    return begin, length


def _compute_distance(begin: DateOrDateTime, end: DateOrDateTime) -> dt.timedelta:
    if (
        not isinstance(begin, dt.datetime)
        or not isinstance(end, dt.datetime)
        or (begin.tzinfo is None) != (end.tzinfo is None)
    ):
        raise ValueError("begin and end must be times of the same form")
    return end.astimezone(dt.UTC) - begin.astimezone(dt.UTC) if begin.tzinfo else end - begin


def _parse_duration(value: str, name: str) -> EventLength:
    match = _DURATION.fullmatch(value.upper())
    if match is None:
        raise ValueError(f"{name} is {quote_text(value)}; it must be a duration such as PT1H30M, P1D or P2W")
    weeks, days, hours, minutes, seconds = (int(number or 0) for number in match.groups()[1:])
    length = EventLength(7 * weeks + days, dt.timedelta(hours=hours, minutes=minutes, seconds=seconds))
    if match[1] == "-" and length.sum:
        raise ValueError(f"{name} is {quote_text(value)}; an event cannot end before it begins")
    if length.sum > MAX_EVENT_DAYS * DAY:
        raise ValueError(f"{name} must be at most {MAX_EVENT_DAYS} days")
    return length
