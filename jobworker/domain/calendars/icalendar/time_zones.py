"""Time zones of iCalendar files: well-known names (TZID), and zones that a VTIMEZONE of the file defines."""

import bisect
import datetime as dt
import itertools
import operator
import zoneinfo
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tzlocal.windows_tz import win_tz

from jobworker.domain.calendars.icalendar.content_lines import (
    ICalendarComponent,
    ICalendarTooLarge,
    ParsingEffort,
    quote_text,
)
from jobworker.domain.calendars.icalendar.values import (
    DAY,
    parse_date_list,
    parse_date_or_time,
    parse_offset,
    parse_recurrence,
    strip_time_zone,
    to_naive,
    unescape_text,
)
from jobworker.domain.schedules.rules import rrule_parser
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.rules.rrule_parser import RRuleFrequency, RRuleParts
from jobworker.domain.schedules.time_zones import get_zone_names

#: Maximum number of different zones of a file; each needs a lookup in the time zone data.
_MAX_ZONES = 50

#: Maximum number of STANDARD and DAYLIGHT parts of a zone; the whole history of a zone has less than 30.
_MAX_OBSERVANCES = 100

#: Length of a time in RDATE of a VTIMEZONE, with its comma: 20260329T020000 (characters).
_CHARACTERS_PER_DATE = 16

#: Allowed years of times in a VTIMEZONE; Outlook begins in 1601.
_YEARS = range(1, 2400)


class _OffsetChange(NamedTuple):
    """A change of the offset, at a time in UTC (naive)."""

    at: dt.datetime
    before: dt.timedelta
    after: dt.timedelta


_GET_AT = operator.attrgetter("at")


@dataclass(frozen=True, slots=True)
class _Observance:
    """STANDARD or DAYLIGHT of a VTIMEZONE: offset `after` applies from each onset on.

    Onsets are on the clock before.
    """

    before: dt.timedelta
    after: dt.timedelta
    dates: Sequence[dt.datetime]
    rule: RRule | None
    until: dt.datetime | None
    effort: ParsingEffort
    _changes_by_year: dict[int, Sequence[_OffsetChange]] = field(default_factory=dict)

    def list_dated_changes(self) -> Sequence[_OffsetChange]:
        """Return the changes at single dates."""
        return self._to_changes(self.dates)

    def iterate_rule_changes(self, year: int) -> Iterator[_OffsetChange]:
        """Return the changes by rule in a year and the two years before.

        If the rule has ended before that year, they are the changes in its last three years.
        """
        self.effort.spend(0, 0, changes=1)
        last = year if self.until is None else min(year, self.until.year)
        return itertools.chain.from_iterable(map(self._compute_changes_of_year, range(max(last - 2, 1), last + 1)))

    def _compute_changes_of_year(self, year: int) -> Sequence[_OffsetChange]:
        if year not in self._changes_by_year:
            begin, end = _get_year_bounds(year, year)
            last = end if self.until is None else min(end, self.until)
            times = [] if self.rule is None or last < self.rule.start else [*self.rule.iterate_times(begin, last)]
            self.effort.spend(0, 0, changes=1 + len(times))
            self._changes_by_year[year] = self._to_changes(times)
        return self._changes_by_year[year]

    def _to_changes(self, onsets: Iterable[dt.datetime]) -> Sequence[_OffsetChange]:
        return [_OffsetChange(onset - self.before, self.before, self.after) for onset in onsets]


class _OffsetTable:
    """The offsets of a year, and the times at which they begin: in UTC, and on the clock of the zone by `fold`."""

    def __init__(self, changes: Sequence[_OffsetChange], first: dt.timedelta) -> None:
        self._offsets = [changes[0].before if changes else first, *(change.after for change in changes)]
        self._utc = _drop_out_of_order([change.at for change in changes])
        self._shown = (
            _drop_out_of_order([change.at + max(change.before, change.after) for change in changes]),
            _drop_out_of_order([change.at + min(change.before, change.after) for change in changes]),
        )

    def get_offset_at_utc(self, time: dt.datetime) -> dt.timedelta:
        """Return the offset at a time in UTC."""
        return self._offsets[bisect.bisect_right(self._utc, time)]

    def get_offset_at_local(self, time: dt.datetime, fold: int) -> dt.timedelta:
        """Return the offset at a time on the clock.

        A gap has the offset before it; `fold` selects for a repeated time.
        """
        return self._offsets[bisect.bisect_right(self._shown[fold], time)]


def _drop_out_of_order(times: list[dt.datetime]) -> list[dt.datetime]:
    """Return times in order. A time after its successor is lowered to it, because the last of these changes applies."""
    return [*itertools.accumulate(reversed(times), min)][::-1]


class ICalendarTimeZone(dt.tzinfo):
    """A zone that a VTIMEZONE defines (RFC 5545, 3.6.5). A time in a gap has the offset before it (3.3.5)."""

    def __init__(self, key: str, observances: Sequence[_Observance]) -> None:
        self.key = key
        self._first = min(observances, key=lambda observance: observance.dates[0]).before
        self._dated = sorted(
            (change for observance in observances for change in observance.list_dated_changes()), key=_GET_AT
        )
        self._ruled = [observance for observance in observances if observance.rule is not None]
        self._tables: dict[int, _OffsetTable] = {}

    def utcoffset(self, time: dt.datetime | None) -> dt.timedelta | None:
        """Return the offset at a time on the clock of the zone."""
        if time is None:
            return None
        shown = strip_time_zone(time)
        return self._get_table(shown).get_offset_at_local(shown, time.fold)

    def dst(self, time: dt.datetime | None) -> None:
        """Return None: the part of an offset that is daylight saving time is not needed."""

    def tzname(self, time: dt.datetime | None) -> str:
        """Return the TZID."""
        return self.key

    def fromutc(self, time: dt.datetime) -> dt.datetime:
        """Return the time on the clock of the zone at a time in UTC."""
        utc = strip_time_zone(time)
        offset_now = self._get_table(utc).get_offset_at_utc(utc)
        shown = utc + offset_now
        fold = self._get_table(shown).get_offset_at_local(shown, 0) != offset_now
        return (time + offset_now).replace(fold=1) if fold else time + offset_now

    def _get_table(self, time: dt.datetime) -> _OffsetTable:
        """Return the offsets around a time. The offsets of each year are cached."""
        # Clocks differ from UTC by less than a day.
        year = (time + DAY).year
        if year not in self._tables:
            low, high = _get_year_bounds(max(year - 1, 1), year)
            begin, end = (
                bisect.bisect_left(self._dated, low, key=_GET_AT),
                bisect.bisect_right(self._dated, high, key=_GET_AT),
            )
            ruled = (change for observance in self._ruled for change in observance.iterate_rule_changes(year))
            changes = sorted([*self._dated[max(begin - 1, 0) : end], *ruled], key=_GET_AT)
            self._tables[year] = _OffsetTable(changes, self._first)
        return self._tables[year]


def _get_year_bounds(first: int, last: int) -> tuple[dt.datetime, dt.datetime]:
    return dt.datetime.combine(dt.date(first, 1, 1), dt.time()), dt.datetime.combine(dt.date(last, 12, 31), dt.time.max)


class ICalendarTimeZones:
    """The zones that the events of a file name."""

    def __init__(self, calendars: Sequence[ICalendarComponent], effort: ParsingEffort) -> None:
        self._defined = {
            name: zone
            for calendar in calendars
            for zone in calendar.parts
            if zone.name == "VTIMEZONE" and zone.get_properties("TZID")
            for name in _get_tzid_spellings(zone)
        }
        self._zones_by_tzid: dict[str, dt.tzinfo | ValueError] = {}
        self._effort = effort

    def find_zone(self, tzid: str) -> dt.tzinfo:
        """Return the zone of this name. Raises `ValueError` with the name."""
        tzid = tzid.strip()
        if tzid not in self._zones_by_tzid:
            if len(self._zones_by_tzid) == _MAX_ZONES:
                raise ICalendarTooLarge(f"the file names more than {_MAX_ZONES} time zones")
            try:
                self._zones_by_tzid[tzid] = self._look_up(tzid)
            except ValueError as error:
                self._zones_by_tzid[tzid] = error
        zone = self._zones_by_tzid[tzid]
        if isinstance(zone, ValueError):
            raise zone
        return zone

    def _look_up(self, tzid: str) -> dt.tzinfo:
        defined = self._defined.get(tzid)
        places = [
            tzid,
            *(line.value.strip() for line in (defined.get_properties("X-LIC-LOCATION")[:1] if defined else ())),
        ]
        iana_name = next(filter(None, map(_find_iana_name, places)), None)
        if iana_name:
            return zoneinfo.ZoneInfo(iana_name)
        if defined is None:
            right = "name an IANA zone such as Europe/Berlin, or add its VTIMEZONE"
            raise ValueError(f"time zone {quote_text(tzid)} is not known, and the file does not define it; {right}")
        try:
            return self._build_zone(tzid, defined)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"the VTIMEZONE of {quote_text(tzid)} cannot be read: {error}") from None

    def _build_zone(self, tzid: str, defined: ICalendarComponent) -> ICalendarTimeZone:
        parts = [part for part in defined.parts if part.name in ("STANDARD", "DAYLIGHT")]
        if not parts:
            raise ValueError("it has neither STANDARD nor DAYLIGHT")
        if len(parts) > _MAX_OBSERVANCES:
            raise ValueError(f"it has {len(parts)} STANDARD and DAYLIGHT parts, more than {_MAX_OBSERVANCES}")
        dates = sum(len(line.value) // _CHARACTERS_PER_DATE for part in parts for line in part.get_properties("RDATE"))
        self._effort.spend(0, 0, changes=len(parts) + dates)
        return ICalendarTimeZone(tzid, [self._parse_observance(part) for part in parts])

    def _parse_observance(self, part: ICalendarComponent) -> _Observance:
        before = parse_offset(part.get_property("TZOFFSETFROM"), "TZOFFSETFROM")
        after = parse_offset(part.get_property("TZOFFSETTO"), "TZOFFSETTO")
        start_property, repeated = part.get_property("DTSTART"), part.get_property("RRULE")
        if start_property is None:
            raise ValueError("DTSTART is missing")
        start = to_naive(parse_date_or_time(start_property, self._refuse_zone, _YEARS), None)
        more = [to_naive(value, None) for value, _ in parse_date_list(part, "RDATE", self._refuse_zone, _YEARS)]
        rule = until = None
        if repeated is not None:
            text, last, count = parse_recurrence(repeated, self._refuse_zone)
            if count is not None or not _is_yearly(rrule_parser.parse(text)):
                raise ValueError(
                    f"RRULE is {quote_text(text)}; it must be FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU, for example"
                )
            rule = RRule(text, start)
            until = None if last is None else to_naive(last, dt.timezone(before))
        return _Observance(before, after, sorted({start, *more}), rule, until, self._effort)

    @staticmethod
    def _refuse_zone(tzid: str) -> dt.tzinfo:
        raise ValueError(f"a time of a VTIMEZONE has no zone; TZID={quote_text(tzid)} is not allowed")


def _get_tzid_spellings(zone: ICalendarComponent) -> tuple[str, str]:
    """Return the TZID with and without escapes, because parameters that refer to it have no escapes."""
    tzid = zone.get_properties("TZID")[0].value.strip()
    return tzid, unescape_text(tzid)


def _find_iana_name(tzid: str) -> str | None:
    """Return the IANA name of a zone, which may have a prefix (`/mozilla.org/2005/Europe/Berlin`) or be of Windows."""
    pieces = tzid.split("/") if tzid.startswith("/") else [""]
    named = ("/".join(pieces[at:]) for at in range(1, min(len(pieces), 6)))
    return next((name for name in (tzid, win_tz.get(tzid), *named) if name in get_zone_names()), None)


def _is_yearly(parts: RRuleParts) -> bool:
    """Return whether a rule selects one day of each year, as rules of time zones do."""
    lists = (parts.months, parts.days, parts.month_days, parts.hours, parts.minutes, parts.seconds)
    return (
        parts.frequency is RRuleFrequency.YEARLY
        and parts.interval == 1
        and all(len(numbers) <= 1 for numbers in (*lists[:2], *lists[3:]))
        and (bool(parts.months) or not parts.days)
        and not (parts.weeks or parts.year_days or parts.positions)
    )
