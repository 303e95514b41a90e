"""From the wall clock of a zone to moments in time, where the clock is set forward or back.

In a *gap* the clock jumps over a time of day: it does not exist. In a *fold* it is set back: a time of day comes twice.
"""

import datetime as dt
import itertools
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_HOUR = dt.timedelta(hours=1)
_SECOND = dt.timedelta(seconds=1)

#: No change of a clock is larger: zones have crossed the date line.
LARGEST_CHANGE = 26 * _HOUR


class Gap(StrEnum):
    """What becomes of an occurrence at a time of day that does not exist: later by the gap, or left out."""

    SHIFT = "shift"
    SKIP = "skip"


class Fold(StrEnum):
    """Which of the two counts when a time of day comes twice."""

    FIRST = "first"
    SECOND = "second"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Dst:
    """What holds when clocks change."""

    gap: Gap = Gap.SHIFT
    fold: Fold = Fold.FIRST


@dataclass(frozen=True, slots=True)
class Stretch:
    """Wall clock times from `begin` up to `end` (naive, `end` not included) and their offset: they stand for
    the moments `time - offset`.
    """

    begin: dt.datetime
    end: dt.datetime
    offset: dt.timedelta


def wall_clock(moment: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """What the clock of `zone` shows at `moment` (aware): naive."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def earliest(local: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """The first moment (UTC) at which the clock of `zone` shows `local` (naive), or has jumped over it."""
    return min(local.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1))


def stretches(after: dt.datetime, until: dt.datetime, zone: zoneinfo.ZoneInfo, dst: Dst) -> Iterator[Stretch]:
    """The times of day whose occurrences fall into the moments after `after` and before `until` (UTC).

    Two stretches may overlap in time: what a gap shifts, and what comes by itself.
    """
    spans = list(_spans(after - LARGEST_CHANGE, until + LARGEST_CHANGE, zone))
    # With guards at both ends every span has neighbours; nothing within reach of `after` and `until` touches them.
    guarded = [spans[0], *spans, spans[-1]]
    lowest, highest = _naive(after) + dt.timedelta(microseconds=1), _naive(until)
    for before, (begin, end, offset), behind in zip(guarded, spans, guarded[2:], strict=False):
        first, last = begin + offset, end + offset
        change = offset - before[2]
        if change > dt.timedelta(0) and dst.gap is Gap.SHIFT:
            yield from _cut(Stretch(begin + before[2], begin + offset, before[2]), lowest, highest)
        if change < dt.timedelta(0) and dst.fold is Fold.FIRST:
            first = begin + before[2]
        if behind[2] < offset and dst.fold is Fold.SECOND:
            last = end + behind[2]
        yield from _cut(Stretch(first, last, offset), lowest, highest)


def _cut(stretch: Stretch, lowest: dt.datetime, highest: dt.datetime) -> Iterator[Stretch]:
    """The part of a stretch whose moments lie within these bounds."""
    begin = max(stretch.begin, lowest + stretch.offset)
    end = min(stretch.end, highest + stretch.offset)
    if begin < end:
        yield Stretch(begin, end, stretch.offset)


def _spans(
    begin: dt.datetime, end: dt.datetime, zone: zoneinfo.ZoneInfo
) -> Iterator[tuple[dt.datetime, dt.datetime, dt.timedelta]]:
    """Spans of time (naive UTC) with one offset each, from `begin` to `end`."""
    hours = [begin + number * _HOUR for number in range(int((end - begin) / _HOUR) + 1)] + [end]
    known = [(moment, _offset(moment, zone)) for moment in hours]
    started = begin
    for (earlier, offset), (later, other) in itertools.pairwise(known):
        if other != offset:
            change = _change(earlier, later, zone)
            yield _naive(started), _naive(change), offset
            started = change
    yield _naive(started), _naive(end), known[-1][1]


def _change(earlier: dt.datetime, later: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    """The moment (whole seconds) between these two at which the offset of `earlier` ends."""
    offset = _offset(earlier, zone)
    seconds = int((later - earlier) / _SECOND)
    low, high = 0, seconds
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(earlier + middle * _SECOND, zone) == offset:
            low = middle
        else:
            high = middle
    return earlier + high * _SECOND


def _offset(moment: dt.datetime, zone: zoneinfo.ZoneInfo) -> dt.timedelta:
    return moment.astimezone(zone).utcoffset() or dt.timedelta(0)


def _naive(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=None)
