"""Conversion from the wall clock of a zone to moments in time, including changes of the clock.

In a *gap* the clock jumps over a time of day: it does not exist. In a *fold* the clock is set back: a time of day comes
twice. Moments are naive UTC in this module, because arithmetic with aware ones looks up the zone again and again.
"""

import datetime as dt
import difflib
import functools
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import tzdata

#: The time zone data of this process: the version of IANA's database, and the package that ships it.
DATA_VERSION = f"{tzdata.IANA_VERSION} (tzdata {tzdata.__version__})"

#: Folders of the host's own time zone data, which earlier versions read before `use_shipped_data` existed.
HOST_FOLDERS = zoneinfo.TZPATH

#: Maximum offset from UTC of any zone at any time: 15:56, rounded up.
MAX_UTC_OFFSET = dt.timedelta(hours=16)

#: Maximum change of a clock: zones have crossed the date line.
_MAX_OFFSET_CHANGE = dt.timedelta(hours=26)

#: Interval between the times at which offsets are looked up. Two changes of a zone were never closer than 167 hours.
_PROBE_INTERVAL = dt.timedelta(days=3)

_SECOND = dt.timedelta(seconds=1)
_ZERO = dt.timedelta(0)

#: Bounds of zone lookups: closer to the ends of the calendar, an offset leads out of it.
_FIRST, _LAST = (dt.datetime.combine(day, dt.time()) for day in (dt.date(1, 1, 3), dt.date(9999, 12, 29)))


#: Texts of users who specify an offset instead of a zone.
_OFFSET_PATTERN = re.compile(r"(?:UTC|GMT)?[+-]\d", re.IGNORECASE | re.ASCII)


class GapPolicy(StrEnum):
    """Policy for an occurrence at a time of day that does not exist: shifted by the gap, or left out."""

    SHIFT = "shift"
    SKIP = "skip"


class FoldPolicy(StrEnum):
    """Policy for an occurrence at a time of day that comes twice: which of the two counts."""

    FIRST = "first"
    SECOND = "second"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class DstPolicy:
    """Policies for changes of the clock."""

    gap: GapPolicy = GapPolicy.SHIFT
    fold: FoldPolicy = FoldPolicy.FIRST


@dataclass(frozen=True, slots=True)
class OffsetPeriod:
    """The time from one change of a zone's clocks to the next: moments from `begin` up to `end` (naive UTC).

    `offset` applies in the period, `previous_offset` before it, and `next_offset` after it.
    """

    begin: dt.datetime
    end: dt.datetime
    offset: dt.timedelta
    previous_offset: dt.timedelta
    next_offset: dt.timedelta

    @property
    def stable_from(self) -> dt.datetime:
        """The time from which the change at the begin has no effect: no repeated and no shifted time follows."""
        return self.begin + abs(self.offset - self.previous_offset)

    @property
    def stable_until(self) -> dt.datetime:
        """The time from which a time on the clock may be repeated after the period."""
        return self.end - max(self.offset - self.next_offset, _ZERO)


@dataclass(frozen=True, slots=True)
class LocalTimeRange:
    """Wall clock times from `begin` up to `end` (naive, `end` not included) and their offset.

    Their moments are `time - offset`.
    """

    begin: dt.datetime
    end: dt.datetime
    offset: dt.timedelta


def use_shipped_data() -> None:
    """Read zones from the package `tzdata`, not from the host: the data of hosts differ, and may be old."""
    zoneinfo.reset_tzpath(to=())
    # Zones that were read before came from the host.
    zoneinfo.ZoneInfo.clear_cache()


@functools.cache
def get_zone_names() -> frozenset[str]:
    """Return the names of zones that mean the same zone on every host."""
    return frozenset(zoneinfo.available_timezones() - {"Factory", "localtime"})


def suggest_zone(name: str) -> str:
    """Return a hint for an unknown zone."""
    if _OFFSET_PATTERN.match(name):
        return "an offset is not a time zone: name a place, such as Europe/Berlin, or Etc/GMT-1 for UTC+1 all the year"
    near = difflib.get_close_matches(name, get_zone_names(), 1)
    return f"did you mean {near[0]}?" if near else "an example is Europe/Berlin"


def to_wall_clock(moment: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """Return the naive time on the clock of `zone` at `moment` (aware)."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def find_earliest_moment(local: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """Return the first moment (UTC) at which the clock of `zone` shows `local` (naive), or has jumped over it."""
    return min(local.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1))


def find_same_local_time(
    moment: dt.datetime, before: zoneinfo.ZoneInfo, after: zoneinfo.ZoneInfo, fold: FoldPolicy
) -> dt.datetime:
    """Return the moment at which the clock of `after` shows the time that the clock of `before` shows at `moment`.

    Both are the same zone by different time zone data.
    """
    local = moment.astimezone(before)
    first, second = (local.replace(tzinfo=after, fold=number).astimezone(dt.UTC) for number in (0, 1))
    if local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset():  # The time came twice before.
        return second if local.fold else first
    return max(first, second) if fold is FoldPolicy.SECOND else first


def find_offset_period(moment: dt.datetime, zone: zoneinfo.ZoneInfo) -> OffsetPeriod:
    """Return the period that contains a moment."""
    periods = _list_offset_periods(zone, moment.year)
    return next((period for period in periods if moment < period.end), periods[-1])


def iterate_local_ranges(
    after: dt.datetime, until: dt.datetime, zone: zoneinfo.ZoneInfo, dst: DstPolicy
) -> Iterator[LocalTimeRange]:
    """Yield the wall clock times whose occurrences are after `after` and before `until`, less than a year apart.

    Two ranges may overlap in time: one that a gap has shifted, and the regular one.
    """
    lowest = after + dt.timedelta(microseconds=1)
    for span in _list_offset_periods(zone, after.year):
        if span.begin < until and after < span.end + _MAX_OFFSET_CHANGE:
            for stretch in _iterate_ranges_of_period(span, dst):
                yield from _clip_range(stretch, lowest, until)


def _iterate_ranges_of_period(span: OffsetPeriod, dst: DstPolicy) -> Iterator[LocalTimeRange]:
    first, last = span.begin + span.offset, span.end + span.offset
    if span.previous_offset < span.offset and dst.gap is GapPolicy.SHIFT:
        yield LocalTimeRange(span.begin + span.previous_offset, first, span.previous_offset)
    if span.offset < span.previous_offset and dst.fold is FoldPolicy.FIRST:
        first = span.begin + span.previous_offset
    if span.next_offset < span.offset and dst.fold is FoldPolicy.SECOND:
        last = span.end + span.next_offset
    yield LocalTimeRange(first, last, span.offset)


def _clip_range(stretch: LocalTimeRange, lowest: dt.datetime, highest: dt.datetime) -> Iterator[LocalTimeRange]:
    """Yield the part of a range whose moments are within these bounds."""
    begin = max(stretch.begin, lowest + stretch.offset)
    end = min(stretch.end, highest + stretch.offset)
    if begin < end:
        yield LocalTimeRange(begin, end, stretch.offset)


@functools.lru_cache(maxsize=4096)
def _list_offset_periods(zone: zoneinfo.ZoneInfo, year: int) -> tuple[OffsetPeriod, ...]:
    """Return the periods of a year, of the year before and of the year after, ascending."""
    begin = _get_new_year(year - 1) if year > dt.MINYEAR + 1 else _FIRST
    end = _get_new_year(year + 2) if year < dt.MAXYEAR - 1 else _LAST
    changes = list(_iterate_offset_changes(begin, end, zone))
    bounds = [begin, *changes, end]
    offsets = [_get_utc_offset(moment, zone) for moment in bounds[:-1]]
    around = [offsets[0], *offsets, offsets[-1]]
    return tuple(
        OffsetPeriod(bounds[at], bounds[at + 1], offsets[at], around[at], around[at + 2]) for at in range(len(offsets))
    )


def _get_new_year(year: int) -> dt.datetime:
    return dt.datetime.combine(dt.date(year, 1, 1), dt.time())


def _iterate_offset_changes(begin: dt.datetime, end: dt.datetime, zone: zoneinfo.ZoneInfo) -> Iterator[dt.datetime]:
    earlier, offset = begin, _get_utc_offset(begin, zone)
    while earlier < end:
        later = min(earlier + _PROBE_INTERVAL, end)
        later_offset = _get_utc_offset(later, zone)
        if later_offset != offset:
            yield _find_offset_change(earlier, later, offset, zone)
        earlier, offset = later, later_offset


def _find_offset_change(
    earlier: dt.datetime, later: dt.datetime, offset: dt.timedelta, zone: zoneinfo.ZoneInfo
) -> dt.datetime:
    """Return the moment (whole seconds) between these two at which `offset` ends."""
    low, high = 0, int((later - earlier) / _SECOND)
    while high - low > 1:
        middle = (low + high) // 2
        if _get_utc_offset(earlier + middle * _SECOND, zone) == offset:
            low = middle
        else:
            high = middle
    return earlier + high * _SECOND


def _get_utc_offset(moment: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.timedelta:
    return moment.replace(tzinfo=dt.UTC).astimezone(zone).utcoffset() or _ZERO
