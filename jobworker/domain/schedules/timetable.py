"""Timetables: nominal times of a rule on the wall clock of its zone, within its bounds; and calendars that forbid them.

All functions are pure. Moments are aware and in UTC, times of day naive.

A rule yields *nominal* times. Required and excluded calendars remove none of them: each is evaluated, and its
occurrence states that a calendar forbade it. Only the roll of a business day depends on these calendars.
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

#: Maximum distance of a due time.
_MAX_TIME_AHEAD = dt.timedelta(days=50 * 366)

#: Maximum number of rounds through the calendars in the search for a time that all of them allow.
_MAX_ROUNDS = 400

_TICK = dt.timedelta(microseconds=1)

#: Bounds of due times: between them, every zone has a time of day for every moment.
_BEGIN, _END = (dt.datetime.combine(day, dt.time(), dt.UTC) for day in (dt.date(1, 1, 4), dt.date(9999, 12, 29)))


@runtime_checkable
class WallClockRule(Protocol):
    """A rule that names times of day."""

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """Return the first naive time from `begin` on that the rule names."""
        ...


Rule = OnceRule | IntervalRule | DailyRule | WeeklyRule | MonthlyRule | BusinessDayRule | CronRule | RRule


@dataclass(frozen=True, slots=True)
class Timetable:
    """A rule with its zone, bounds and calendars by name. `dst` None: the default policy (`get_default_dst`)."""

    rule: Rule
    zone: zoneinfo.ZoneInfo = field(default_factory=lambda: zoneinfo.ZoneInfo("UTC"))
    dst: DstPolicy | None = None
    start: dt.datetime | None = None
    end: dt.datetime | None = None
    requires: Mapping[str, Calendar] = field(default_factory=dict)
    excludes: Mapping[str, Calendar] = field(default_factory=dict)


def get_default_dst(rule: Rule) -> DstPolicy:
    """Return the default DST policy.

    Fixed times of day fire exactly once per day; sub-daily rules follow elapsed time.
    """
    frequent = isinstance(rule, CronRule | RRule) and rule.is_frequent()
    return _FREQUENT_DST if frequent else _ONCE_A_DAY_DST


_FREQUENT_DST, _ONCE_A_DAY_DST = (
    DstPolicy(GapPolicy.SKIP, FoldPolicy.BOTH),
    DstPolicy(GapPolicy.SHIFT, FoldPolicy.FIRST),
)


def find_next_time(timetable: Timetable, moment: dt.datetime) -> dt.datetime | None:
    """Return the first nominal time strictly after `moment`; None without a time within 50 years."""
    if timetable.start is not None:
        moment = max(moment, timetable.start - _TICK)
    moment = max(moment, _BEGIN)
    rule = timetable.rule
    if isinstance(rule, OnceRule | IntervalRule):
        next_time = rule.find_next(moment)
    else:
        if isinstance(rule, BusinessDayRule) and rule.roll is not None:
            rule = replace(rule, allowed=lambda time: _describe_local_exclusion(timetable, time) is None)
        next_time = _find_next_on_wall_clock(rule, timetable.zone, timetable.dst or get_default_dst(rule), moment)
    return next_time if next_time is not None and next_time < min(timetable.end or _END, _END) else None


def recompute_for_zone(
    timetable: Timetable, before: zoneinfo.ZoneInfo, settled_until: dt.datetime, next_at: dt.datetime | None
) -> tuple[dt.datetime, dt.datetime | None]:
    """Return `settled_until` and `next_at` by the present data of the zone; they were computed with the data `before`.

    An occurrence is identified by its time of day: an evaluated occurrence is not due again at its new moment, and one
    that was not evaluated stays due even if its new moment has passed.
    """
    dst = timetable.dst or get_default_dst(timetable.rule)
    was = find_next_time(replace(timetable, zone=before), settled_until)
    if was != next_at and next_at is None:
        return settled_until, None  # The schedule had its last run.
    by_moment = isinstance(timetable.rule, OnceRule | IntervalRule) or dst.fold is FoldPolicy.BOTH
    # A process that has the present data already may have computed it.
    if by_moment or was != next_at:
        return settled_until, find_next_time(timetable, settled_until)
    new_settled_until = find_same_local_time(settled_until, before, timetable.zone, dst.fold)
    new_next_at = find_next_time(timetable, new_settled_until)
    # A moment has one occurrence row, so this one is moved past a moment that was evaluated for another occurrence.
    return max(new_settled_until, settled_until), max(new_next_at, settled_until + _TICK) if new_next_at else None


def iterate_occurrences(timetable: Timetable, after: dt.datetime, before: dt.datetime) -> Iterator[dt.datetime]:
    """Yield every nominal time after `after` and before `before`."""
    moment = find_next_time(timetable, after)
    while moment is not None and moment < before:
        yield moment
        moment = find_next_time(timetable, moment)


def is_allowed(timetable: Timetable, moment: dt.datetime) -> bool:
    """Return whether the calendars allow the schedule to fire at this moment."""
    return describe_exclusion(timetable, moment) is None


def describe_exclusion(timetable: Timetable, moment: dt.datetime) -> str | None:
    """Return why the calendars forbid this moment, in words; None if they allow it.

    The text contains the name of the calendar, and the calendar's name for the day.
    """
    if not timetable.requires and not timetable.excludes:
        return None
    return _describe_local_exclusion(timetable, to_wall_clock(moment, timetable.zone))


def find_next_allowed(timetable: Timetable, moment: dt.datetime) -> dt.datetime | None:
    """Return the first nominal time strictly after `moment` that the calendars allow.

    The search ends 50 years after the first time that they forbid; the result is then None.
    """
    horizon = None
    while (next_time := find_next_time(timetable, moment)) is not None and next_time < (horizon or _END):
        horizon = horizon or _compute_horizon(next_time)
        shown = to_wall_clock(next_time, timetable.zone)
        opens = _find_next_allowed_local(timetable, shown)
        if opens == shown:
            return next_time
        if opens is None:
            return None
        moment = max(next_time, find_earliest_moment(opens, timetable.zone) - _TICK)
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
    """Return the first time from `time` on that every calendar allows."""
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
    """Return the first moment after `moment` at which the zone's clock shows a time of the rule.

    `dst` decides about times that the clock skips or repeats.
    """
    now = moment.astimezone(dt.UTC).replace(tzinfo=None)
    try:
        time = _find_next_before_clock_change(rule, zone, now) or _find_next_across_clock_changes(rule, zone, dst, now)
    except OverflowError:  # The last year is reached.
        return None
    return time.replace(tzinfo=dt.UTC) if time else None


def _find_next_before_clock_change(
    rule: WallClockRule, zone: zoneinfo.ZoneInfo, now: dt.datetime
) -> dt.datetime | None:
    """Return the first time after `now` (naive UTC) if no change of clocks is near.

    A shortcut of `_find_next_across_clock_changes` with an equal result; None if a change is near.
    """
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
        # With any offset, the moment of that time is neither before this one nor after `until`.
        now = max(now, time - MAX_UTC_OFFSET - _TICK)
        until = max(now, time) + 2 * MAX_UTC_OFFSET
        times = ((rule.find_first(span.begin), span) for span in iterate_local_ranges(now, until, zone, dst))
        moments = [time - span.offset for time, span in times if time is not None and time < span.end]
        if moments:
            return min(moments)
        now = until - _TICK
    return None
