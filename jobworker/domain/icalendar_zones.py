"""Time zones of iCalendar files: names (TZID) that are well known, and those that a VTIMEZONE of the file defines."""

import bisect
import datetime as dt
import zoneinfo
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tzlocal.windows_tz import win_tz

from jobworker.domain.icalendar_lines import Component, TooMuch, quoted
from jobworker.domain.icalendar_values import DAY, NOTHING, moment, moments, naive, offset, recurrence
from jobworker.domain.rules import rrule_reading
from jobworker.domain.rules.recurrence import RRule
from jobworker.domain.rules.rrule_reading import Frequency, Parts
from jobworker.domain.zones import known_zones

#: Different zones of a file; each costs a look into the time zone data.
_MOST_ZONES = 50

#: Years for which rules of VTIMEZONE are worked out, summed over the rules of a file; two rules for 30 years are 60.
_MOST_YEARS = 500

#: Single dates of a zone on which its offset changes; and its changes in two years.
_MOST_DATES = 500
_MOST_CHANGES = 20


@dataclass(frozen=True, slots=True)
class _Observance:
    """STANDARD or DAYLIGHT of a VTIMEZONE: `after` holds from each onset on. Onsets are on the clock before."""

    before: dt.timedelta
    after: dt.timedelta
    dates: Sequence[dt.datetime]
    rule: RRule | None
    until: dt.datetime | None
    spend: Callable[[], None]
    _known: dict[int, list[dt.datetime]] = field(default_factory=dict)

    def onsets(self, year: int) -> list[dt.datetime]:
        """Return the onsets of a year and of the one before, and the last of those before these two."""
        low, high = (
            dt.datetime.combine(dt.date(year - 1, 1, 1), dt.time()),
            dt.datetime.combine(dt.date(year, 12, 31), dt.time.max),
        )
        first, end = bisect.bisect_left(self.dates, low), bisect.bisect_right(self.dates, high)
        return [*self.dates[max(first - 1, 0) : end], *self._ruled(high)]

    def _ruled(self, high: dt.datetime) -> list[dt.datetime]:
        last = high if self.until is None else min(high, self.until)
        if self.rule is None or last.year not in self._known:
            if self.rule is None or last < self.rule.start:
                return []
            self.spend()
            begin = dt.datetime.combine(dt.date(max(last.year - 2, 1), 1, 1), dt.time())
            self._known[last.year] = list(self.rule.followed(begin, last))
        return self._known[last.year]


class FileZone(dt.tzinfo):
    """A zone as a VTIMEZONE defines it (RFC 5545, 3.6.5). A time in a gap has the offset before it (3.3.5)."""

    def __init__(self, key: str, observances: Sequence[_Observance]) -> None:
        self.key = key
        self._observances = observances
        self._changes: dict[int, list[tuple[dt.datetime, dt.timedelta, dt.timedelta]]] = {}

    def utcoffset(self, time: dt.datetime | None) -> dt.timedelta | None:
        """Return the offset at a time on the clock of the zone."""
        if time is None:
            return None
        chosen = min if time.fold else max
        return self._offset(time.replace(tzinfo=None), lambda before, after: chosen(NOTHING, after - before))

    def dst(self, time: dt.datetime | None) -> None:
        """Return nothing: what part of an offset is daylight saving time is not needed."""

    def tzname(self, time: dt.datetime | None) -> str:
        """Return the TZID."""
        return self.key

    def fromutc(self, time: dt.datetime) -> dt.datetime:
        """Return what the clock of the zone shows at a time in UTC."""
        utc = time.replace(tzinfo=None)
        shown = utc + self._offset(utc, lambda before, _: -before)
        return shown.replace(tzinfo=self, fold=shown - self._first_offset(shown) != utc)

    def _first_offset(self, shown: dt.datetime) -> dt.timedelta:
        return self._offset(shown, lambda before, after: max(NOTHING, after - before))

    def _offset(self, time: dt.datetime, shift: Callable[[dt.timedelta, dt.timedelta], dt.timedelta]) -> dt.timedelta:
        """Return the offset at a time of a clock on which changes come by `shift(before, after)` later."""
        year = (time + DAY).year
        if year not in self._changes:
            found = [(onset, each.before, each.after) for each in self._observances for onset in each.onsets(year)]
            if len(found) > _MOST_CHANGES + 2 * len(self._observances):
                raise TooMuch(
                    f"the offset of time zone {quoted(self.key)} changes more than {_MOST_CHANGES} times a year"
                )
            self._changes[year] = sorted(found, key=lambda change: change[0] - change[1])
        changes = self._changes[year]
        current = changes[0][1] if changes else min(self._observances, key=lambda each: each.dates[0]).before
        for onset, before, after in changes:
            if onset + shift(before, after) <= time:
                current = after
        return current


class Zones:
    """The zones that the events of a file name."""

    def __init__(self, calendars: Sequence[Component]) -> None:
        self._defined = {
            zone.all("TZID")[0].value.strip(): zone
            for calendar in calendars
            for zone in calendar.parts
            if zone.name == "VTIMEZONE" and zone.all("TZID")
        }
        self._found: dict[str, dt.tzinfo | ValueError] = {}
        self._years = 0

    def find(self, tzid: str) -> dt.tzinfo:
        """Return the zone of this name; raises `ValueError` that names it."""
        tzid = tzid.strip()
        if tzid not in self._found:
            if len(self._found) == _MOST_ZONES:
                raise TooMuch(f"the file names more than {_MOST_ZONES} time zones")
            try:
                self._found[tzid] = self._look_up(tzid)
            except ValueError as error:
                self._found[tzid] = error
        found = self._found[tzid]
        if isinstance(found, ValueError):
            raise found
        return found

    def _look_up(self, tzid: str) -> dt.tzinfo:
        defined = self._defined.get(tzid)
        places = [tzid, *(line.value.strip() for line in (defined.all("X-LIC-LOCATION")[:1] if defined else ()))]
        known = next(filter(None, map(_well_known, places)), None)
        if known:
            return zoneinfo.ZoneInfo(known)
        if defined is None:
            right = "name an IANA zone such as Europe/Berlin, or add its VTIMEZONE"
            raise ValueError(f"time zone {quoted(tzid)} is not known, and the file does not define it; {right}")
        try:
            return self._zone(tzid, defined)
        except ValueError as error:
            raise ValueError(f"the VTIMEZONE of {quoted(tzid)} cannot be read: {error}") from None

    def _zone(self, tzid: str, defined: Component) -> FileZone:
        parts = [each for each in defined.parts if each.name in ("STANDARD", "DAYLIGHT")]
        if not parts:
            raise ValueError("it has neither STANDARD nor DAYLIGHT")
        if len(parts) + sum(len(line.value) // 16 for part in parts for line in part.all("RDATE")) > _MOST_DATES:
            raise ValueError(f"it has more than {_MOST_DATES} dates")
        return FileZone(tzid, [self._observance(each) for each in parts])

    def _observance(self, part: Component) -> _Observance:
        before = offset(part.one("TZOFFSETFROM"), "TZOFFSETFROM")
        after = offset(part.one("TZOFFSETTO"), "TZOFFSETTO")
        given, repeated = part.one("DTSTART"), part.one("RRULE")
        if given is None:
            raise ValueError("DTSTART is missing")
        # Outlook begins in 1601.
        start = naive(moment(given, self._refuse, years=range(1, 2400)), None)
        more = [naive(value, None) for value, _ in moments(part, "RDATE", self._refuse)]
        rule = until = None
        if repeated is not None:
            text, last, count = recurrence(repeated, self._refuse)
            if count is not None or not _is_yearly(rrule_reading.read(text)):
                raise ValueError(f"RRULE is {quoted(text)}; it must be FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU, for example")
            rule = RRule(text, start)
            until = None if last is None else naive(last, dt.timezone(before))
        return _Observance(before, after, sorted({start, *more}), rule, until, self._spend)

    def _spend(self) -> None:
        self._years += 1
        if self._years > _MOST_YEARS:
            raise TooMuch(f"the rules of its time zones have to be worked out for more than {_MOST_YEARS} years in sum")

    @staticmethod
    def _refuse(tzid: str) -> dt.tzinfo:
        raise ValueError(f"a time of a VTIMEZONE has no zone; TZID={quoted(tzid)} is too much")


def _well_known(tzid: str) -> str | None:
    """Return the IANA name of a zone, which may have a prefix (`/mozilla.org/2005/Europe/Berlin`) or be of Windows."""
    pieces = tzid.split("/") if tzid.startswith("/") else [""]
    named = ("/".join(pieces[at:]) for at in range(1, min(len(pieces), 6)))
    return next((name for name in (tzid, win_tz.get(tzid), *named) if name in known_zones()), None)


def _is_yearly(parts: Parts) -> bool:
    """Whether a rule says one day of each year, as those of time zones do."""
    lists = (parts.months, parts.days, parts.month_days, parts.hours, parts.minutes, parts.seconds)
    return (
        parts.frequency is Frequency.YEARLY
        and parts.interval == 1
        and all(len(each) <= 1 for each in (*lists[:2], *lists[3:]))
        and (bool(parts.months) or not parts.days)
        and not (parts.weeks or parts.year_days or parts.positions)
    )
