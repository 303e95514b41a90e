"""What is ahead of a schedule, before anything has happened: its next times with what is remarkable about each."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobworker.domain.describing import duration
from jobworker.domain.rules.days import BusinessDay
from jobworker.domain.rules.days import shown as clock
from jobworker.domain.timetable import Timetable, WallClockRule, forbidden_by, next_after, next_allowed
from jobworker.domain.zones import Span, span_at, wall_clock

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
    while moment is not None and fires < count:
        one = _upcoming(timetable, moment)
        found.append(one)
        fires += one.fires
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
        return [f"it never fires: its rule names no time {_ahead(timetable)}"]
    if next_allowed(timetable, now) is None:
        names = ", ".join([*timetable.requires, *timetable.excludes])
        return [f"it never fires: its calendars ({names}) allow no time of its rule {_ahead(timetable)}"]
    return []


def _ahead(timetable: Timetable) -> str:
    return "within the next years" if timetable.end is None else f"from now until {timetable.end.isoformat()}"


def _upcoming(timetable: Timetable, moment: dt.datetime) -> Upcoming:
    forbidden = forbidden_by(timetable, moment)
    return Upcoming(moment, moment.astimezone(timetable.zone), forbidden is None, marks(timetable, moment))


def _of_the_day(timetable: Timetable, moment: dt.datetime) -> Iterator[str]:
    day = wall_clock(moment, timetable.zone).date()
    for name, calendar in {**timetable.requires, **timetable.excludes}.items():
        if (called := calendar.name_of(day)) is not None:
            yield f"{called} (calendar {name})"
    if isinstance(timetable.rule, BusinessDay) and (called := timetable.rule.calendar.name_of(day)):
        yield called


def _of_clocks(timetable: Timetable, moment: dt.datetime) -> Iterator[str]:
    zone = timetable.zone
    now = moment.astimezone(dt.UTC).replace(tzinfo=None)
    span = span_at(now, zone)
    shown, change = now + span.offset, span.offset - span.before
    if change > _NOTHING and now < span.calm and _shifted(timetable, now, span):
        missing = now + span.before
        yield f"{clock(missing.time())} does not exist in {zone} that day: {duration(change.total_seconds())} later"
    elif change < _NOTHING and now < span.calm:
        yield f"{clock(shown.time())} comes twice in {zone} that day; this is the second"
    elif now >= span.unrest:
        yield f"{clock(shown.time())} comes twice in {zone} that day; this is the first"


def _shifted(timetable: Timetable, now: dt.datetime, span: Span) -> bool:
    """Whether the rule means a time that the clock has jumped over, and not the one that it shows."""
    rule = timetable.rule
    if not isinstance(rule, WallClockRule):
        return False
    return rule.first(now + span.before) == now + span.before and rule.first(now + span.offset) != now + span.offset
