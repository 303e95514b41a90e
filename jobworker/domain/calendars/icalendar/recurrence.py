"""Recurrence rules of iCalendar events: RRULE and EXRULE on the event's own clock, with bounded effort."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from jobworker.domain.calendars.icalendar.content_lines import ICalendarProperty, ParsingEffort
from jobworker.domain.calendars.icalendar.values import DateOrDateTime, ZoneFinder, parse_recurrence, to_naive
from jobworker.domain.schedules.rules import rrule_parser
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.rules.rrule_parser import RRuleFrequency, RRuleParts

#: Supported alternative in error messages. Subdaily rules are refused because they make more windows than a calendar
#: holds.
_SUBDAILY_HINT = (
    "FREQ must be DAILY, WEEKLY, MONTHLY or YEARLY, with one time of day: give it as one window, or several events"
)

#: Cost of starting the evaluation of a rule (days).
_DAYS_PER_RULE = 15

#: Cost of reaching the end of a rule (days): without further occurrences a rule is evaluated to the end of the year.
_DAYS_PER_YEAR = 366


@dataclass(frozen=True, slots=True)
class EventRecurrence:
    """A recurrence rule of an event, and its end: a time on the event's own clock, or a number of occurrences."""

    text: str
    until: dt.datetime | None
    count: int | None
    #: Days a year that the rule evaluates.
    days_per_year: float

    def charge_effort(self, start: dt.datetime, after: dt.datetime, before: dt.datetime, effort: ParsingEffort) -> None:
        """Add the cost of evaluating the rule. A rule with COUNT is charged during the evaluation."""
        last = min(self.until or before, before)
        days = (last - max(start, after)).days
        followed = self.count is None and days >= 0
        effort.spend(0, _DAYS_PER_RULE + (days + _DAYS_PER_YEAR) * self._day_share if followed else _DAYS_PER_RULE)

    def iterate_begins(
        self, start: dt.datetime, after: dt.datetime, before: dt.datetime, effort: ParsingEffort
    ) -> Iterator[dt.datetime]:
        """Yield the occurrences from `after` to `before` of an event that starts at `start`."""
        last = min(self.until or before, before)
        if start > last or after > last:
            return
        # A rule with COUNT must be evaluated from its first occurrence on.
        counted = self.count is not None
        seen = start if counted else max(start, after)
        for number, begin in enumerate(RRule(self.text, start).iterate_times(seen, last), 1):
            effort.spend(1, (begin - seen).days * self._day_share if counted else 0)
            seen = begin
            if begin >= after:
                yield begin
            if number == self.count:
                return
        effort.spend(0, ((last - seen).days + _DAYS_PER_YEAR) * self._day_share if counted else 0)

    @property
    def _day_share(self) -> float:
        """The part of all days that the rule evaluates, weighted because each day of a long rule takes longer."""
        return self.days_per_year / _DAYS_PER_YEAR * (1 + len(self.text) // 40)


def _estimate_days_per_year(parts: RRuleParts) -> float:
    """Return the number of days a year that a rule evaluates; each month costs about one more."""
    if parts.frequency is RRuleFrequency.DAILY:
        return 366
    bare = parts.frequency is RRuleFrequency.YEARLY and not (
        parts.month_days or parts.year_days or parts.days or parts.weeks
    )
    months = len(parts.months) or (1 if bare else 12)
    weight = (2 if parts.weeks else 1) * (2 if parts.positions else 1)
    if parts.days or parts.weeks or parts.frequency is RRuleFrequency.WEEKLY:
        return weight * months * (1 + 53 / 12 * max(1, len({weekday for _, weekday in parts.days})))
    return weight * months * (1 + len(parts.month_days)) + len(parts.year_days)


def parse_rule(prop: ICalendarProperty, tz: dt.tzinfo | None, all_day: bool, find_zone: ZoneFinder) -> EventRecurrence:
    """Return the recurrence rule of an RRULE or EXRULE property. Raises `ValueError`."""
    expression, last, count = parse_recurrence(prop, find_zone)
    finer = {"FREQ=HOURLY", "FREQ=MINUTELY", "FREQ=SECONDLY"}.intersection(expression.split(";"))
    if finer:
        raise ValueError(f"{prop.name}: {finer.pop()} repeats within a day; {_SUBDAILY_HINT}")
    try:
        parts = rrule_parser.parse(expression)
    except ValueError as error:
        raise ValueError(f"{prop.name}: {error}") from None
    if any(len(numbers) > 1 for numbers in (parts.hours, parts.minutes, parts.seconds)):
        raise ValueError(f"{prop.name}: the event repeats within a day; {_SUBDAILY_HINT}")
    return EventRecurrence(
        expression, None if last is None else _parse_until(last, tz, all_day), count, _estimate_days_per_year(parts)
    )


def _parse_until(until: DateOrDateTime, tz: dt.tzinfo | None, all_day: bool) -> dt.datetime:
    """Return UNTIL on the event's clock. Many programs give a day for an event with a time: that day is included."""
    last = to_naive(until, tz)
    whole = all_day or not isinstance(until, dt.datetime)
    return dt.datetime.combine(last.date(), dt.time.max) if whole else last
