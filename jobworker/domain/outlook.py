"""What is ahead of a schedule, before anything has happened: its next times with what is remarkable about each."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jobworker.domain.describing import duration
from jobworker.domain.rules.days import BusinessDay
from jobworker.domain.rules.days import shown as clock
from jobworker.domain.rules.moments import Once
from jobworker.domain.rules.recurrence import RRule
from jobworker.domain.timetable import Timetable, WallClockRule, forbidden_by, meant, next_after, next_allowed
from jobworker.domain.zones import Gap, span_at, wall_clock

_NOTHING = dt.timedelta(0)


@dataclass(frozen=True, slots=True)
class Upcoming:
    """One nominal time: the moment (UTC), the same with the zone's offset, and what to know about it.

    `fires` is false if a calendar forbids it; the notes say which.
    """

    at: dt.datetime
    local: dt.datetime
    fires: bool
    notes: Sequence[str]


def upcoming(timetable: Timetable, after: dt.datetime, count: int) -> list[Upcoming]:
    """The next `count` times that the calendars allow, and before each the first of those that they forbid, if any.

    After `after`, ascending; fewer if the rule has no more.
    """
    found: list[Upcoming] = []
    moment, fires = next_after(timetable, after), 0
    # None where calendars have been jumped over: what lies between is not looked at.
    before: dt.datetime | None = after
    while moment is not None and fires < count:
        one = _upcoming(timetable, before, moment)
        found.append(one)
        fires += one.fires
        before = moment if one.fires else None
        moment = next_after(timetable, moment) if one.fires else next_allowed(timetable, moment)
    return found


def marks(timetable: Timetable, moment: dt.datetime) -> list[str]:
    """What is remarkable about a nominal time: a change of clocks, the name of its day, a calendar that forbids it."""
    forbidden = forbidden_by(timetable, moment)
    closed = [f"does not fire: {forbidden}"] if forbidden else _of_the_day(timetable, moment)
    return [*closed, *_of_clocks(timetable, moment)]


def warnings(timetable: Timetable, now: dt.datetime) -> list[str]:
    """What somebody should know who is about to keep this; such a schedule is accepted all the same."""
    if timetable.end is not None and timetable.end <= now:
        return [f"it never fires: it has ended already, at {timetable.end.isoformat()}"]
    if next_after(timetable, now) is None:
        return [f"it never fires: {_over(timetable, now) or f'its rule names no time {_ahead(timetable)}'}"]
    if next_allowed(timetable, now) is None:
        return [f"it never fires: {_closed(timetable)}"]
    return []


def _over(timetable: Timetable, now: dt.datetime) -> str | None:
    """Why nothing is ahead, if it is not that the rule names nothing at all."""
    rule, opened = timetable.rule, replace(timetable, requires={}, excludes={})
    if next_after(opened, now) is not None:
        return _closed(timetable)
    if isinstance(rule, Once) and rule.at <= now:
        return f"its time is past: {rule.at.isoformat()}"
    if isinstance(rule, RRule) and rule.find_first(rule.start) is not None and timetable.end is None:
        if rule.parts.count:
            return f"its COUNT has been reached; it is counted from the rule's start, {rule.start.isoformat()}"
        if rule.parts.until:
            return f"its UNTIL is past: {rule.parts.until.isoformat('T', 'seconds')}"
    return None


def _closed(timetable: Timetable) -> str:
    both = ", ".join(name for name in timetable.requires if name in timetable.excludes)
    if both:
        return f"calendar {both} is both required and excluded"
    names = ", ".join([*timetable.requires, *timetable.excludes])
    return f"its calendars ({names}) allow no time of its rule {_ahead(timetable)}"


def _ahead(timetable: Timetable) -> str:
    return "within the next years" if timetable.end is None else f"from now until {timetable.end.isoformat()}"


def _upcoming(timetable: Timetable, before: dt.datetime | None, moment: dt.datetime) -> Upcoming:
    forbidden = forbidden_by(timetable, moment)
    notes = [*marks(timetable, moment), *(_left_out(timetable, before, moment) if before else ())]
    return Upcoming(moment, moment.astimezone(timetable.zone), forbidden is None, notes)


def _left_out(timetable: Timetable, before: dt.datetime, moment: dt.datetime) -> Iterator[str]:
    """The times between these two moments that clocks jump over, and that are not made up for."""
    dst = timetable.dst
    # Every few minutes goes on as time does: nothing of it is missed.
    if dst is None or dst.gap is Gap.SHIFT or meant(timetable.rule).gap is Gap.SKIP:
        return
    found = next_after(replace(timetable, dst=replace(dst, gap=Gap.SHIFT)), before)
    if found is not None and found < moment and isinstance(timetable.rule, WallClockRule):
        missing = found.replace(tzinfo=None) + span_at(found.replace(tzinfo=None), timetable.zone).previous_offset
        yield f"before it, {missing.isoformat(' ', 'minutes')} does not exist in {timetable.zone}: left out"


def _of_the_day(timetable: Timetable, moment: dt.datetime) -> Iterator[str]:
    day = wall_clock(moment, timetable.zone).date()
    for name, calendar in {**timetable.requires, **timetable.excludes}.items():
        if (called := calendar.find_day_name(day)) is not None:
            yield f"{called} (calendar {name})"
    if isinstance(timetable.rule, BusinessDay) and (called := timetable.rule.calendar.find_day_name(day)):
        yield called


def _of_clocks(timetable: Timetable, moment: dt.datetime) -> Iterator[str]:
    zone = timetable.zone
    now = moment.astimezone(dt.UTC).replace(tzinfo=None)
    span = span_at(now, zone)
    shown, change = now + span.offset, span.offset - span.previous_offset
    if change > _NOTHING and now < span.stable_from and _shifted(timetable, now + span.previous_offset):
        missing, later = now + span.previous_offset, duration(change.total_seconds())
        besides = f", together with {clock(shown.time())}" if _names(timetable, shown) else ""
        yield f"{clock(missing.time())} does not exist in {zone} that day: {later} later{besides}"
    elif change < _NOTHING and now < span.stable_from:
        yield f"{clock(shown.time())} comes twice in {zone} that day; this is the second"
    elif span.next_offset < span.offset and now >= span.stable_until:
        yield f"{clock(shown.time())} comes twice in {zone} that day; this is the first"


def _shifted(timetable: Timetable, missing: dt.datetime) -> bool:
    """Whether a time that the clock has jumped over is one of the rule's, and made up for."""
    return (timetable.dst or meant(timetable.rule)).gap is Gap.SHIFT and _names(timetable, missing)


def _names(timetable: Timetable, time: dt.datetime) -> bool:
    """Whether a time on the clock is one of the rule's."""
    return isinstance(timetable.rule, WallClockRule) and timetable.rule.find_first(time) == time
