"""When a schedule fires: its rule on the wall clock of its zone, within its bounds and kept to its calendars.

Everything here is a pure function of what it is given. Moments are aware and in UTC, times of day naive.
"""

import datetime as dt
import zoneinfo
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from jobworker.domain.calendars import Calendar, next_inside, next_outside
from jobworker.domain.rules.days import BusinessDay, Daily, Monthly, Weekly
from jobworker.domain.rules.expressions import Cron, RRule
from jobworker.domain.rules.moments import Interval, Once
from jobworker.domain.zones import LARGEST_CHANGE, Dst, Fold, Gap, earliest, stretches, wall_clock

#: So far ahead one look goes; beyond it the rule says where to look next.
_REACH = dt.timedelta(days=2)

#: Nothing is due later than so many years ahead.
_HORIZON = dt.timedelta(days=50 * 366)

#: So many occurrences in a row that calendars forbid are looked through, and no more.
_MOST_FORBIDDEN = 400


@runtime_checkable
class WallClockRule(Protocol):
    """A rule about times of day."""

    def times(self, begin: dt.datetime) -> Iterator[dt.datetime]:
        """The naive times from `begin` on that it names, ascending."""
        ...


Rule = Once | Interval | Daily | Weekly | Monthly | BusinessDay | Cron | RRule


@dataclass(frozen=True, slots=True)
class Timetable:
    """A rule with everything that bounds it. `dst` None: as people mean the rule (`meant`)."""

    rule: Rule
    zone: zoneinfo.ZoneInfo = field(default_factory=lambda: zoneinfo.ZoneInfo("UTC"))
    dst: Dst | None = None
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    requires: Sequence[Calendar] = ()
    excludes: Sequence[Calendar] = ()

    def allows(self, time: dt.datetime) -> bool:
        """Whether the calendars let it fire at this time of the wall clock."""
        return all(each.holds(time) for each in self.requires) and not any(each.holds(time) for each in self.excludes)


def meant(rule: Rule) -> Dst:
    """What people mean who say nothing: a time of day happens once a day; every few minutes goes on as time does."""
    frequent = isinstance(rule, Cron | RRule) and rule.is_frequent()
    return Dst(Gap.SKIP, Fold.BOTH) if frequent else Dst(Gap.SHIFT, Fold.FIRST)


def next_after(timetable: Timetable, moment: dt.datetime) -> dt.datetime | None:
    """The first occurrence strictly after `moment`; None: there is none within 50 years."""
    if timetable.start is not None:
        moment = max(moment, timetable.start - dt.timedelta(microseconds=1))
    if isinstance(timetable.rule, BusinessDay):
        timetable = replace(timetable, rule=replace(timetable.rule, allowed=timetable.allows))
    found = _next_allowed(timetable, moment.astimezone(dt.UTC))
    return found if found is not None and (timetable.end is None or found < timetable.end) else None


def occurrences(timetable: Timetable, after: dt.datetime, before: dt.datetime) -> Iterator[dt.datetime]:
    """Every occurrence after `after` and before `before`."""
    found = next_after(timetable, after)
    while found is not None and found < before:
        yield found
        found = next_after(timetable, found)


def _next_allowed(timetable: Timetable, moment: dt.datetime) -> dt.datetime | None:
    for _ in range(_MOST_FORBIDDEN):
        found = _next(timetable, moment)
        if found is None:
            return None
        shown = wall_clock(found, timetable.zone)
        opens = _opens(timetable, shown)
        if opens == shown:
            return found
        if opens is None:
            return None
        moment = max(found, earliest(opens, timetable.zone) - _TICK)
    return None


def _opens(timetable: Timetable, time: dt.datetime) -> dt.datetime | None:
    """The first time from `time` on that every calendar allows."""
    for _ in range(_MOST_FORBIDDEN):
        later: dt.datetime | None = time
        for calendar in timetable.requires:
            later = next_inside(calendar, later) if later else None
        for calendar in timetable.excludes:
            later = next_outside(calendar, later) if later else None
        if later is None or later == time:
            return later
        time = later
    return None


def _next(timetable: Timetable, moment: dt.datetime) -> dt.datetime | None:
    rule = timetable.rule
    if isinstance(rule, Once | Interval):
        return rule.next_after(moment)
    dst, zone = timetable.dst or meant(rule), timetable.zone
    try:
        horizon = moment + _HORIZON
        while moment < horizon:
            until = moment + _REACH
            found = _first(rule, zone, dst, moment, until)
            if found is not None:
                return found
            coming = next(rule.times(wall_clock(until, zone) - LARGEST_CHANGE), None)
            if coming is None:
                return None
            moment = max(until - _TICK, coming.replace(tzinfo=dt.UTC) - _REACH)
    except OverflowError:  # The last year is reached.
        pass
    return None


_TICK = dt.timedelta(microseconds=1)


def _first(
    rule: WallClockRule, zone: zoneinfo.ZoneInfo, dst: Dst, after: dt.datetime, until: dt.datetime
) -> dt.datetime | None:
    """The first occurrence between these moments."""
    found: list[dt.datetime] = []
    for stretch in stretches(after, until, zone, dst):
        time = next(rule.times(stretch.begin), None)
        if time is not None and time < stretch.end:
            found.append((time - stretch.offset).replace(tzinfo=dt.UTC))
    return min(found, default=None)
