"""When a schedule is due: its rule on the wall clock of its zone, within its bounds; and what its calendars say.

Everything here is a pure function of what it is given. Moments are aware and in UTC, times of day naive.

What a rule yields are *nominal* times. Calendars that a schedule requires or excludes take none of them away: each is
settled, and its row in the ledger says that a calendar forbade it. Only a business day that is rolled asks them.
"""

import datetime as dt
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from jobworker.domain.calendars.calendars import Calendar, find_next_excluded_time, find_next_included_time
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule, DailyRule, MonthlyRule, WeeklyRule
from jobworker.domain.schedules.rules.cron import CronRule
from jobworker.domain.schedules.rules.fixed import IntervalRule, OnceRule
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.time_zones import (
    MAX_UTC_OFFSET,
    DstPolicy,
    FoldPolicy,
    GapPolicy,
    find_earliest_moment,
    find_offset_period,
    find_same_local_time,
    iterate_local_ranges,
    to_wall_clock,
)

#: Nothing is due later than so many years ahead.
_MAX_TIME_AHEAD = dt.timedelta(days=50 * 366)

#: So often calendars are asked in turn for a time that all of them allow.
_MAX_ROUNDS = 400

_TICK = dt.timedelta(microseconds=1)

#: Between these, every zone has a time of day for every moment. Nothing is due outside.
_BEGIN, _END = (dt.datetime.combine(day, dt.time(), dt.UTC) for day in (dt.date(1, 1, 4), dt.date(9999, 12, 29)))


@runtime_checkable
class WallClockRule(Protocol):
    """A rule about times of day."""

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """The first naive time from `begin` on that it names."""
        ...


Rule = OnceRule | IntervalRule | DailyRule | WeeklyRule | MonthlyRule | BusinessDayRule | CronRule | RRule


@dataclass(frozen=True, slots=True)
class Timetable:
    """A rule with everything that bounds it. `dst` None: as people mean the rule (`meant`); calendars by name."""

    rule: Rule
    zone: zoneinfo.ZoneInfo = field(default_factory=lambda: zoneinfo.ZoneInfo("UTC"))
    dst: DstPolicy | None = None
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    requires: Mapping[str, Calendar] = field(default_factory=dict)
    excludes: Mapping[str, Calendar] = field(default_factory=dict)


def get_default_dst(rule: Rule) -> DstPolicy:
    """What people mean who say nothing: a time of day happens once a day; every few minutes goes on as time does."""
    frequent = isinstance(rule, CronRule | RRule) and rule.is_frequent()
    return _FREQUENT_DST if frequent else _ONCE_A_DAY_DST


_FREQUENT_DST, _ONCE_A_DAY_DST = (
    DstPolicy(GapPolicy.SKIP, FoldPolicy.BOTH),
    DstPolicy(GapPolicy.SHIFT, FoldPolicy.FIRST),
)


def find_next_time(timetable: Timetable, moment: dt.datetime) -> dt.datetime | None:
    """The first nominal time strictly after `moment`; None: there is none within 50 years."""
    if timetable.start is not None:
        moment = max(moment, timetable.start - _TICK)
    moment = max(moment, _BEGIN)
    rule = timetable.rule
    if isinstance(rule, OnceRule | IntervalRule):
        found = rule.find_next(moment)
    else:
        if isinstance(rule, BusinessDayRule) and rule.roll is not None:
            rule = replace(rule, allowed=lambda time: _describe_local_exclusion(timetable, time) is None)
        found = _find_next_on_wall_clock(rule, timetable.zone, timetable.dst or get_default_dst(rule), moment)
    return found if found is not None and found < min(timetable.end or _END, _END) else None


def recompute_for_zone(
    timetable: Timetable, before: zoneinfo.ZoneInfo, settled_until: dt.datetime, next_at: dt.datetime | None
) -> tuple[dt.datetime, dt.datetime | None]:
    """Return `settled_until` and `next_at` by the present data of the zone; they were worked out with those `before`.

    An occurrence is recognized by its time of day: one that was settled is not due again at its new moment, and one
    that was not settled stays due although its new moment has passed.
    """
    dst = timetable.dst or get_default_dst(timetable.rule)
    was = find_next_time(replace(timetable, zone=before), settled_until)
    if was != next_at and next_at is None:
        return settled_until, None  # It had its last run.
    by_moment = isinstance(timetable.rule, OnceRule | IntervalRule) or dst.fold is FoldPolicy.BOTH
    # A process that has the present data already may have worked it out.
    if by_moment or was != next_at:
        return settled_until, find_next_time(timetable, settled_until)
    settled = find_same_local_time(settled_until, before, timetable.zone, dst.fold)
    found = find_next_time(timetable, settled)
    # At a moment that was settled for another occurrence the ledger has no room for this one.
    return max(settled, settled_until), max(found, settled_until + _TICK) if found else None


def iterate_occurrences(timetable: Timetable, after: dt.datetime, before: dt.datetime) -> Iterator[dt.datetime]:
    """Every nominal time after `after` and before `before`."""
    found = find_next_time(timetable, after)
    while found is not None and found < before:
        yield found
        found = find_next_time(timetable, found)


def is_allowed(timetable: Timetable, moment: dt.datetime) -> bool:
    """Whether the calendars let it fire at this moment."""
    return describe_exclusion(timetable, moment) is None


def describe_exclusion(timetable: Timetable, moment: dt.datetime) -> str | None:
    """Why the calendars do not let it fire at this moment, in words: which one, and what it calls the day."""
    if not timetable.requires and not timetable.excludes:
        return None
    return _describe_local_exclusion(timetable, to_wall_clock(moment, timetable.zone))


def find_next_allowed(timetable: Timetable, moment: dt.datetime) -> dt.datetime | None:
    """The first nominal time strictly after `moment` that the calendars allow.

    None: there is none within 50 years of the first that they forbid.
    """
    horizon = None
    while (found := find_next_time(timetable, moment)) is not None and found < (horizon or _END):
        horizon = horizon or _compute_horizon(found)
        shown = to_wall_clock(found, timetable.zone)
        opens = _find_next_allowed_local(timetable, shown)
        if opens == shown:
            return found
        if opens is None:
            return None
        moment = max(found, find_earliest_moment(opens, timetable.zone) - _TICK)
    return None


def _compute_horizon(moment: dt.datetime) -> dt.datetime:
    end = _END.replace(tzinfo=moment.tzinfo)
    return moment + _MAX_TIME_AHEAD if moment < end - _MAX_TIME_AHEAD else end


def _describe_local_exclusion(timetable: Timetable, time: dt.datetime) -> str | None:
    for name, calendar in timetable.requires.items():
        if not calendar.is_time_included(time):
            return f"not within calendar {name}" + _format_day_name(calendar, time)
    for name, calendar in timetable.excludes.items():
        if calendar.is_time_included(time):
            return f"within calendar {name}" + _format_day_name(calendar, time)
    return None


def _format_day_name(calendar: Calendar, time: dt.datetime) -> str:
    name = calendar.find_day_name(time.date())
    return f": {name}" if name else ""


def _find_next_allowed_local(timetable: Timetable, time: dt.datetime) -> dt.datetime | None:
    """The first time from `time` on that every calendar allows."""
    for _ in range(_MAX_ROUNDS):
        later: dt.datetime | None = time
        for calendar in timetable.requires.values():
            later = find_next_included_time(calendar, later) if later else None
        for calendar in timetable.excludes.values():
            later = find_next_excluded_time(calendar, later) if later else None
        if later is None or later == time:
            return later
        time = later
    return None


def _find_next_on_wall_clock(
    rule: WallClockRule, zone: zoneinfo.ZoneInfo, dst: DstPolicy, moment: dt.datetime
) -> dt.datetime | None:
    """The first moment after `moment` at which the clock of the zone shows a time of the rule, as `dst` has it."""
    now = moment.astimezone(dt.UTC).replace(tzinfo=None)
    try:
        found = _find_next_before_clock_change(rule, zone, now) or _find_next_across_clock_changes(rule, zone, dst, now)
    except OverflowError:  # The last year is reached.
        return None
    return found.replace(tzinfo=dt.UTC) if found else None


def _find_next_before_clock_change(
    rule: WallClockRule, zone: zoneinfo.ZoneInfo, now: dt.datetime
) -> dt.datetime | None:
    """The first time after `now` (naive UTC) if no change of clocks is near: the short way to the same answer."""
    span = find_offset_period(now, zone)
    if now < span.stable_from:
        return None
    time = rule.find_first(now + span.offset + _TICK)
    return time - span.offset if time is not None and time - span.offset < span.stable_until else None


def _find_next_across_clock_changes(
    rule: WallClockRule, zone: zoneinfo.ZoneInfo, dst: DstPolicy, now: dt.datetime
) -> dt.datetime | None:
    horizon = _compute_horizon(now)
    while now < horizon:
        time = rule.find_first(now - MAX_UTC_OFFSET)
        if time is None:
            return None
        # Whatever the clocks do, that time stands for no moment before this one, and for none after `until`.
        now = max(now, time - MAX_UTC_OFFSET - _TICK)
        until = max(now, time) + 2 * MAX_UTC_OFFSET
        times = ((rule.find_first(each.begin), each) for each in iterate_local_ranges(now, until, zone, dst))
        found = [time - each.offset for time, each in times if time is not None and time < each.end]
        if found:
            return min(found)
        now = until - _TICK
    return None
