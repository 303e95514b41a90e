"""Rules and schedules in plain English, for people who want to know whether they wrote what they meant."""

import datetime as dt
from collections.abc import Iterator, Sequence

from jobworker.domain.calendars import WEEKDAYS
from jobworker.domain.describing_cron import of_cron, ordinal
from jobworker.domain.rules.cron import Cron
from jobworker.domain.rules.days import BusinessDay, Daily, Monthly, Roll, Weekly, shown
from jobworker.domain.rules.moments import EPOCH, Interval, Once
from jobworker.domain.rules.recurrence import RRule
from jobworker.domain.rules.rrule_reading import Frequency, Parts
from jobworker.domain.schedule import Schedule
from jobworker.domain.timetable import Rule, WallClockRule
from jobworker.domain.zones import Dst, Fold, Gap

_WEEKEND = frozenset({5, 6})
_EVERY_DAY = frozenset(range(7))
_WORKING = _EVERY_DAY - _WEEKEND

_UNITS = (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60))

_ROLLS = {
    Roll.FOLLOWING: "the next business day if it is closed then",
    Roll.PRECEDING: "the business day before if it is closed then",
    Roll.MODIFIED_FOLLOWING: "the next business day of the month, or else the one before, if it is closed then",
}

_GAPS = {Gap.SHIFT: "made up for when clocks skip it", Gap.SKIP: "left out when clocks skip it"}
_FOLDS = {
    Fold.FIRST: "once, the first time, when it comes twice",
    Fold.SECOND: "once, the second time, when it comes twice",
    Fold.BOTH: "both times when it comes twice",
}

_PERIODS = {
    Frequency.HOURLY: "hour",
    Frequency.DAILY: "day",
    Frequency.WEEKLY: "week",
}


def of_schedule(schedule: Schedule) -> str:
    """When a schedule is due: `every weekday at 06:00 (Europe/Berlin), at most 5 times`."""
    on_the_clock = isinstance(schedule.rule, WallClockRule)
    text = of_rule(schedule.rule) + (f" ({schedule.zone})" if on_the_clock else "")
    return ", ".join(
        [
            text,
            *_business(schedule),
            *_clocks(schedule.dst if on_the_clock else None),
            *_bounds(schedule),
            *_lateness(schedule),
        ]
    )


def of_rule(rule: Rule) -> str:
    """The rule alone: `on the last day of each month at 18:00`."""
    match rule:
        case Once():
            text = f"once, at {_moment(rule.at)}"
        case Interval():
            text = _every(rule.every) + ("" if rule.anchor == EPOCH else f", counted from {_moment(rule.anchor)}")
        case Daily():
            text = f"every day at {shown(rule.time)}"
        case Weekly():
            text = f"every {_weekdays(rule.days)} at {shown(rule.time)}"
        case Monthly():
            text = f"on {_monthday(rule.day)} of each month{_where_it_exists(rule.day)} at {shown(rule.time)}"
        case BusinessDay():
            text = f"on {_counted(rule.number, 'business day')} of each month at {shown(rule.time)}"
        case Cron():
            text = of_cron(rule.expression)
        case RRule():
            text = _recurrence(rule)
    return text


def duration(seconds: float) -> str:
    """`1 hour 30 minutes`."""
    parts = []
    seconds = round(seconds, 6)  # Nothing shorter than a microsecond is kept.
    for unit, length in _UNITS:
        number, seconds = divmod(seconds, length)
        if number:
            parts.append(_number(int(number), unit))
    rest = f"{seconds:.6f}".rstrip("0").rstrip(".")
    if rest != "0" or not parts:
        parts.append(f"{rest} second" + ("" if rest == "1" else "s"))
    return " ".join(parts)


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _business(schedule: Schedule) -> Iterator[str]:
    if isinstance(schedule.rule, BusinessDay):
        yield f"as calendar {schedule.calendar} counts" if schedule.calendar else "Monday to Friday being business days"
        if schedule.rule.roll:
            yield _ROLLS[schedule.rule.roll]


def _clocks(dst: Dst | None) -> Iterator[str]:
    if dst is not None:
        yield f"{_GAPS[dst.gap]}, {_FOLDS[dst.fold]}"


def _bounds(schedule: Schedule) -> Iterator[str]:
    if schedule.require:
        yield f"only within {_calendars(schedule.require)}"
    if schedule.exclude:
        yield f"not within {_calendars(schedule.exclude)}"
    if schedule.run_at_start:
        yield "and whenever the system starts"
    if schedule.start:
        yield f"from {_moment(schedule.start)} on"
    if schedule.end:
        yield f"until {_moment(schedule.end)}"
    if schedule.initial_delay:
        yield f"not in the first {duration(schedule.initial_delay)} after it was made"
    if schedule.max_runs:
        yield f"at most {_number(schedule.max_runs, 'time')}"


def _lateness(schedule: Schedule) -> Iterator[str]:
    if schedule.spread:
        yield f"up to {duration(schedule.spread)} later, always by the same share"
    if schedule.jitter:
        yield f"up to {duration(schedule.jitter)} later, by chance each time"
    if not schedule.enabled:
        yield "but it is disabled"


def _calendars(names: Sequence[str]) -> str:
    return ("calendar " if len(names) == 1 else "calendars ") + listed(names)


def _moment(moment: dt.datetime) -> str:
    local = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return f"{local.date()} {shown(local.time())} UTC"


def _every(seconds: float) -> str:
    text = duration(seconds)
    number, _, unit = text.partition(" ")
    return f"every {unit if number == '1' and ' ' not in unit else text}"


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _weekdays(days: frozenset[int]) -> str:
    if days == _EVERY_DAY:
        return "day"
    if days == _WORKING:
        return "weekday"
    return listed([WEEKDAYS[day].capitalize() for day in sorted(days)])


def _monthday(day: int | None) -> str:
    return "the last day" if day is None else f"day {day}"


def _where_it_exists(day: int | None) -> str:
    # Every month has 28 days.
    return " that has it" if day is not None and day > 28 else ""


def _counted(number: int, noun: str) -> str:
    if number == -1:
        return f"the last {noun}"
    return f"the {ordinal(number)} {noun}" if number > 0 else f"the {ordinal(-number)} to last {noun}"


def _recurrence(rule: RRule) -> str:
    """In words as far as a frequency, an interval, days of the week and a count go; the expression itself beyond."""
    parts = rule.parts
    days = frozenset(weekday for _, weekday in parts.days)
    plainest = Parts(parts.frequency, parts.interval, parts.count, days=tuple((None, day) for _, day in parts.days))
    # A month or a year without days takes them from the start, and with days means each of them.
    if parts != plainest or parts.frequency not in _PERIODS:
        return f"by the recurrence rule {rule.expression}, counted from {_local(rule.start)}"
    period = _PERIODS[parts.frequency]
    often = f"every {period if parts.interval == 1 else _number(parts.interval, period)}"
    on = f" on {listed([WEEKDAYS[day].capitalize() for day in sorted(days)])}" if days else ""
    count = f", {_number(parts.count, 'time')}" if parts.count else ""
    return f"{often}{on}, counted from {_local(rule.start)}{count}"


def _local(time: dt.datetime) -> str:
    return f"{time.date()} {shown(time.time())}"
