"""Preview of a schedule: its next nominal times, with notes about clock changes, named days and calendars."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jobworker.domain.schedules.description import format_duration
from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule
from jobworker.domain.schedules.rules.calendar_days import format_time as clock
from jobworker.domain.schedules.rules.fixed import OnceRule
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.time_zones import GapPolicy, find_offset_period, to_wall_clock
from jobworker.domain.schedules.timetable import (
    Timetable,
    WallClockRule,
    describe_exclusion,
    find_next_allowed,
    find_next_time,
    get_default_dst,
)

_NOTHING = dt.timedelta(0)


@dataclass(frozen=True, slots=True)
class NominalTimePreview:
    """A nominal time: the moment in UTC, that moment with the zone's offset, and notes.

    `fires` is false if a calendar forbids the time; the notes name the calendar.
    """

    at: dt.datetime
    local: dt.datetime
    fires: bool
    notes: Sequence[str]


def compute_upcoming(timetable: Timetable, after: dt.datetime, count: int) -> list[NominalTimePreview]:
    """Return the next `count` times after `after` that the calendars allow, ascending; fewer if the rule has no more.

    Before each of them, the first time that the calendars forbid is included, if any.
    """
    previews: list[NominalTimePreview] = []
    moment, fires = find_next_time(timetable, after), 0
    # None after a jump over forbidden times: clock changes in between are not reported.
    before: dt.datetime | None = after
    while moment is not None and fires < count:
        preview = _build_upcoming(timetable, before, moment)
        previews.append(preview)
        fires += preview.fires
        before = moment if preview.fires else None
        moment = find_next_time(timetable, moment) if preview.fires else find_next_allowed(timetable, moment)
    return previews


def describe_occurrence(timetable: Timetable, moment: dt.datetime) -> list[str]:
    """Return notes about a nominal time: a change of clocks, the name of its day, a calendar that forbids it."""
    forbidden = describe_exclusion(timetable, moment)
    closed = [f"does not fire: {forbidden}"] if forbidden else _describe_day(timetable, moment)
    return [*closed, *_describe_clock_change(timetable, moment)]


def compute_warnings(timetable: Timetable, now: dt.datetime) -> list[str]:
    """Return warnings about a schedule that is about to be stored; such a schedule is accepted nevertheless."""
    if timetable.end is not None and timetable.end <= now:
        return [f"it never fires: it has ended already, at {timetable.end.isoformat()}"]
    if find_next_time(timetable, now) is None:
        reason = _describe_exhaustion(timetable, now) or f"its rule names no time {_describe_horizon(timetable)}"
        return [f"it never fires: {reason}"]
    if find_next_allowed(timetable, now) is None:
        return [f"it never fires: {_describe_closed_calendars(timetable)}"]
    return []


def _describe_exhaustion(timetable: Timetable, now: dt.datetime) -> str | None:
    """Return why no time is ahead; None if the rule never names a time."""
    rule, opened = timetable.rule, replace(timetable, requires={}, excludes={})
    if find_next_time(opened, now) is not None:
        return _describe_closed_calendars(timetable)
    if isinstance(rule, OnceRule) and rule.at <= now:
        return f"its time has passed: {rule.at.isoformat()}"
    if isinstance(rule, RRule) and rule.find_first(rule.start) is not None and timetable.end is None:
        if rule.parts.count:
            return f"its COUNT has been reached; it is counted from the rule's start, {rule.start.isoformat()}"
        if rule.parts.until:
            return f"its UNTIL has passed: {rule.parts.until.isoformat('T', 'seconds')}"
    return None


def _describe_closed_calendars(timetable: Timetable) -> str:
    contradictory = ", ".join(name for name in timetable.requires if name in timetable.excludes)
    if contradictory:
        return f"calendar {contradictory} is both required and excluded"
    names = ", ".join([*timetable.requires, *timetable.excludes])
    return f"its calendars ({names}) allow no time of its rule {_describe_horizon(timetable)}"


def _describe_horizon(timetable: Timetable) -> str:
    return "within the next years" if timetable.end is None else f"from now until {timetable.end.isoformat()}"


def _build_upcoming(timetable: Timetable, before: dt.datetime | None, moment: dt.datetime) -> NominalTimePreview:
    forbidden = describe_exclusion(timetable, moment)
    notes = [
        *describe_occurrence(timetable, moment),
        *(_describe_skipped_times(timetable, before, moment) if before else ()),
    ]
    return NominalTimePreview(moment, moment.astimezone(timetable.zone), forbidden is None, notes)


def _describe_skipped_times(timetable: Timetable, before: dt.datetime, moment: dt.datetime) -> Iterator[str]:
    """Yield the times between these two moments that clocks skip and that are left out."""
    dst = timetable.dst
    # Sub-daily rules follow elapsed time, so they lose no occurrence.
    if dst is None or dst.gap is GapPolicy.SHIFT or get_default_dst(timetable.rule).gap is GapPolicy.SKIP:
        return
    shifted = find_next_time(replace(timetable, dst=replace(dst, gap=GapPolicy.SHIFT)), before)
    if shifted is not None and shifted < moment and isinstance(timetable.rule, WallClockRule):
        missing = (
            shifted.replace(tzinfo=None)
            + find_offset_period(shifted.replace(tzinfo=None), timetable.zone).previous_offset
        )
        yield f"before it, {missing.isoformat(' ', 'minutes')} does not exist in {timetable.zone}: left out"


def _describe_day(timetable: Timetable, moment: dt.datetime) -> Iterator[str]:
    day = to_wall_clock(moment, timetable.zone).date()
    for name, calendar in {**timetable.requires, **timetable.excludes}.items():
        if (called := calendar.find_day_name(day)) is not None:
            yield f"{called} (calendar {name})"
    if isinstance(timetable.rule, BusinessDayRule) and (called := timetable.rule.calendar.find_day_name(day)):
        yield called


def _describe_clock_change(timetable: Timetable, moment: dt.datetime) -> Iterator[str]:
    zone = timetable.zone
    now = moment.astimezone(dt.UTC).replace(tzinfo=None)
    span = find_offset_period(now, zone)
    shown, change = now + span.offset, span.offset - span.previous_offset
    if change > _NOTHING and now < span.stable_from and _is_shifted(timetable, now + span.previous_offset):
        missing, later = now + span.previous_offset, format_duration(change.total_seconds())
        besides = f", together with {clock(shown.time())}" if _is_rule_time(timetable, shown) else ""
        yield f"{clock(missing.time())} does not exist in {zone} that day: {later} later{besides}"
    elif change < _NOTHING and now < span.stable_from:
        yield f"{clock(shown.time())} comes twice in {zone} that day; this is the second"
    elif span.next_offset < span.offset and now >= span.stable_until:
        yield f"{clock(shown.time())} comes twice in {zone} that day; this is the first"


def _is_shifted(timetable: Timetable, missing: dt.datetime) -> bool:
    """Return whether a time that the clock has skipped is a time of the rule and shifted by its policy."""
    return (timetable.dst or get_default_dst(timetable.rule)).gap is GapPolicy.SHIFT and _is_rule_time(
        timetable, missing
    )


def _is_rule_time(timetable: Timetable, time: dt.datetime) -> bool:
    """Return whether a time on the clock is a time of the rule."""
    return isinstance(timetable.rule, WallClockRule) and timetable.rule.find_first(time) == time
