"""Descriptions of rules and schedules in plain English, for users who check their rules."""

import datetime as dt
import re
from collections.abc import Iterator, Sequence

from cronsim.explain import ORDINALS, Expression

from jobworker.domain.calendars.calendars import WEEKDAYS
from jobworker.domain.schedules.rules.calendar_days import (
    BusinessDayRule,
    DailyRule,
    MonthlyRule,
    RollConvention,
    WeeklyRule,
    format_time,
)
from jobworker.domain.schedules.rules.cron import CronRule, expand_nickname
from jobworker.domain.schedules.rules.fixed import EPOCH, IntervalRule, OnceRule
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.rules.rrule_parser import RRuleFrequency, RRuleParts
from jobworker.domain.schedules.schedule import Schedule
from jobworker.domain.schedules.time_zones import DstPolicy, FoldPolicy, GapPolicy
from jobworker.domain.schedules.timetable import Rule, WallClockRule

_WEEKEND = frozenset({5, 6})
_EVERY_DAY = frozenset(range(7))
_WORKING_DAYS = _EVERY_DAY - _WEEKEND

_UNITS = (("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60))

_ROLLS = {
    RollConvention.FOLLOWING: "the next business day if it is closed then",
    RollConvention.PRECEDING: "the business day before if it is closed then",
    RollConvention.MODIFIED_FOLLOWING: (
        "the next business day of the month, or else the one before, if it is closed then"
    ),
}

_GAPS = {GapPolicy.SHIFT: "shifted when clocks skip it", GapPolicy.SKIP: "left out when clocks skip it"}
_FOLDS = {
    FoldPolicy.FIRST: "once, the first time, when it comes twice",
    FoldPolicy.SECOND: "once, the second time, when it comes twice",
    FoldPolicy.BOTH: "both times when it comes twice",
}

_PERIODS = {
    RRuleFrequency.HOURLY: "hour",
    RRuleFrequency.DAILY: "day",
    RRuleFrequency.WEEKLY: "week",
}

_ORDINAL_WORDS = {word: number for number, word in ORDINALS.items() if number > 1}

_STEP = re.compile(
    rf"every (?:(?P<word>{'|'.join(_ORDINAL_WORDS)})|(?P<number>\d+)th) (?P<unit>minute|second)"
    r"(?P<whole> of every (?P<period>hour|minute))?"
)
_ORDINAL = re.compile(r"\b(\d+)th\b")


def describe_schedule(schedule: Schedule) -> str:
    """Return the times of a schedule: `every weekday at 06:00 (Europe/Berlin), at most 5 times`."""
    on_the_clock = isinstance(schedule.rule, WallClockRule)
    text = describe_rule(schedule.rule) + (f" ({schedule.zone})" if on_the_clock else "")
    return ", ".join(
        [
            text,
            *_describe_business_days(schedule),
            *_describe_clock_changes(schedule.dst if on_the_clock else None),
            *_describe_bounds(schedule),
            *_describe_delays(schedule),
        ]
    )


def describe_rule(rule: Rule) -> str:
    """Return the times of a rule: `on the last day of each month at 18:00`."""
    match rule:
        case OnceRule():
            text = f"once, at {_format_moment(rule.at)}"
        case IntervalRule():
            text = _describe_interval(rule.every) + (
                "" if rule.anchor == EPOCH else f", counted from {_format_moment(rule.anchor)}"
            )
        case DailyRule():
            text = f"every day at {format_time(rule.time)}"
        case WeeklyRule():
            text = f"every {_describe_weekdays(rule.days)} at {format_time(rule.time)}"
        case MonthlyRule():
            missing = _describe_missing_month_day(rule.day)
            text = f"on {_describe_month_day(rule.day)} of each month{missing} at {format_time(rule.time)}"
        case BusinessDayRule():
            text = f"on {_describe_nth(rule.number, 'business day')} of each month at {format_time(rule.time)}"
        case CronRule():
            text = describe_cron(rule.expression)
        case RRule():
            text = _describe_recurrence(rule)
    return text


def format_duration(seconds: float) -> str:
    """Return a duration in words: `1 hour 30 minutes`."""
    parts = []
    seconds = round(seconds, 6)  # The precision of durations is a microsecond.
    for unit, length in _UNITS:
        number, seconds = divmod(seconds, length)
        if number:
            parts.append(_format_count(int(number), unit))
    seconds_text = f"{seconds:.6f}".rstrip("0").rstrip(".")
    if seconds_text != "0" or not parts:
        parts.append(f"{seconds_text} second" + ("" if seconds_text == "1" else "s"))
    return " ".join(parts)


def join_words(words: Sequence[str]) -> str:
    """Join words to a list: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def describe_cron(expression: str) -> str:
    """Return the times of a cron expression: `every 15 minutes from 09:00 through 09:59 on Monday through Friday`.

    Corrects the words of cronsim, which joins a day of the month and a day of the week by "and" where either is enough,
    calls every ten minutes "every 10th minute of every hour", and writes 31th.
    """
    read = Expression(expand_nickname(expression).upper().split())
    text = read.explain()
    if not (read.day_and or read.day.star or read.dow.star):
        in_months = "" if read.month.star else ","
        text = text.replace(f"{read.day} and {read.dow}", f"either {read.day} or {read.dow}{in_months}")
    return _ORDINAL.sub(
        lambda match: format_ordinal(int(match[1])), _STEP.sub(_describe_step, text[0].lower() + text[1:])
    )


def format_ordinal(number: int) -> str:
    """Return `1st`, `12th`, `22nd`; for a number below 100."""
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _describe_business_days(schedule: Schedule) -> Iterator[str]:
    if isinstance(schedule.rule, BusinessDayRule):
        yield f"as calendar {schedule.calendar} counts" if schedule.calendar else "Monday to Friday being business days"
        if schedule.rule.roll:
            yield _ROLLS[schedule.rule.roll]


def _describe_clock_changes(dst: DstPolicy | None) -> Iterator[str]:
    if dst is not None:
        yield f"{_GAPS[dst.gap]}, {_FOLDS[dst.fold]}"


def _describe_bounds(schedule: Schedule) -> Iterator[str]:
    if schedule.require:
        yield f"only within {_describe_calendars(schedule.require)}"
    if schedule.exclude:
        yield f"not within {_describe_calendars(schedule.exclude)}"
    if schedule.run_at_start:
        yield "and whenever the system starts"
    if schedule.start:
        yield f"from {_format_moment(schedule.start)} on"
    if schedule.end:
        yield f"until {_format_moment(schedule.end)}"
    if schedule.initial_delay:
        yield f"not in the first {format_duration(schedule.initial_delay)} after its creation"
    if schedule.max_runs:
        yield f"at most {_format_count(schedule.max_runs, 'time')}"


def _describe_delays(schedule: Schedule) -> Iterator[str]:
    if schedule.spread:
        yield f"up to {format_duration(schedule.spread)} later, always by the same share"
    if schedule.jitter:
        yield f"up to {format_duration(schedule.jitter)} later, by chance each time"
    if not schedule.enabled:
        yield "but it is disabled"


def _describe_calendars(names: Sequence[str]) -> str:
    return ("calendar " if len(names) == 1 else "calendars ") + join_words(names)


def _format_moment(moment: dt.datetime) -> str:
    local = moment.astimezone(dt.UTC).replace(tzinfo=None)
    return f"{local.date()} {format_time(local.time())} UTC"


def _describe_interval(seconds: float) -> str:
    text = format_duration(seconds)
    number, _, unit = text.partition(" ")
    return f"every {unit if number == '1' and ' ' not in unit else text}"


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _describe_weekdays(days: frozenset[int]) -> str:
    if days == _EVERY_DAY:
        return "day"
    if days == _WORKING_DAYS:
        return "weekday"
    return join_words([WEEKDAYS[day].capitalize() for day in sorted(days)])


def _describe_month_day(day: int | None) -> str:
    return "the last day" if day is None else f"day {day}"


def _describe_missing_month_day(day: int | None) -> str:
    # Every month has 28 days.
    return " that has it" if day is not None and day > 28 else ""


def _describe_nth(number: int, noun: str) -> str:
    if number == -1:
        return f"the last {noun}"
    return f"the {format_ordinal(number)} {noun}" if number > 0 else f"the {format_ordinal(-number)} to last {noun}"


def _describe_recurrence(rule: RRule) -> str:
    """Describe a rule of frequency, interval, days of the week and count in words; quote any other rule."""
    parts = rule.parts
    days = frozenset(weekday for _, weekday in parts.days)
    plainest = RRuleParts(
        parts.frequency, parts.interval, parts.count, days=tuple((None, day) for _, day in parts.days)
    )
    # Without days, a monthly or yearly rule takes them from its start; with days, it includes each of those weekdays.
    if parts != plainest or parts.frequency not in _PERIODS:
        return f"by the recurrence rule {rule.expression}, counted from {_format_local_time(rule.start)}"
    period = _PERIODS[parts.frequency]
    often = f"every {period if parts.interval == 1 else _format_count(parts.interval, period)}"
    on = f" on {join_words([WEEKDAYS[day].capitalize() for day in sorted(days)])}" if days else ""
    count = f", {_format_count(parts.count, 'time')}" if parts.count else ""
    return f"{often}{on}, counted from {_format_local_time(rule.start)}{count}"


def _format_local_time(time: dt.datetime) -> str:
    return f"{time.date()} {format_time(time.time())}"


def _describe_step(match: re.Match[str]) -> str:
    number = _ORDINAL_WORDS[match["word"]] if match["word"] else int(match["number"])
    text = f"every {number} {match['unit']}s"
    # A step that does not divide the hour starts again with each hour: 0, 7, … 56, 0.
    return text + (f" from the start of every {match['period']}" if match["whole"] and 60 % number else "")
