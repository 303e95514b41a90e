"""Recurrence rules of RFC 5545, on a wall clock (naive times), counted from a start."""

import bisect
import calendar
import datetime as dt
import functools
import itertools
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from jobworker.domain.schedules.rules import rrule_parser
from jobworker.domain.schedules.rules.rrule_parser import RRuleFrequency, RRuleParts

#: Maximum number of years, and of days, that are searched for an occurrence.
_MAX_YEARS_AHEAD = 50
_MAX_DAYS_SEARCHED = 3_000

#: Maximum number of consecutive periods in which BYSETPOS selects no time.
_MAX_EMPTY_PERIODS = 1_000

#: Maximum number of years for which a rule with COUNT is evaluated from its start.
_MAX_COUNTED_YEARS = 200

_DAY = dt.timedelta(days=1)
_MONTHS = range(1, 13)


@dataclass(frozen=True, slots=True)
class RRule:
    """A recurrence rule, counted from `start`, a time on the wall clock.

    The start itself counts only if the rule matches it.

    A date as UNTIL includes that day; BYWEEKNO alone means the start's day of the week. Easter is not supported.
    """

    expression: str
    start: dt.datetime

    @property
    def parts(self) -> RRuleParts:
        """The parsed expression. Raises `ValueError`."""
        return _parse_cached(self.expression)

    def find_first(self, begin: dt.datetime) -> dt.datetime | None:
        """Return the first time from `begin` on; None: the rule has ended, or has no time within 50 years."""
        parts = self.parts
        if parts.count is not None:
            times = _list_counted_times(self)
            at = bisect.bisect_left(times, begin)
            return times[at] if at < len(times) else None
        begin = max(begin, self.start)
        first_time = next(
            _Search(_complete_parts(self.expression, self.start), self.start).iterate_times(begin, _MAX_YEARS_AHEAD),
            None,
        )
        return first_time if first_time is not None and (parts.until is None or first_time <= parts.until) else None

    def iterate_times(self, begin: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
        """Return the times from `begin` to `end`, both included.

        With COUNT the times before `begin` are included as well, because each of them has to be counted.
        """
        parts = self.parts
        begin = self.start if parts.count is not None else max(begin, self.start)
        last = end if parts.until is None else min(end, parts.until)
        times = _Search(_complete_parts(self.expression, self.start), self.start).iterate_times(
            begin, last.year - begin.year
        )
        return itertools.takewhile(lambda time: time <= last, itertools.islice(times, parts.count))

    def is_frequent(self) -> bool:
        """Return whether the rule is sub-daily."""
        return self.parts.frequency is RRuleFrequency.HOURLY

    def has_days(self) -> bool:
        """Return whether any month of the rule has any of its days of the month."""
        parts = _complete_parts(self.expression, self.start)
        if not parts.months or not parts.month_days:
            return True
        # The greatest length of a month is that of a leap year.
        longest = max(calendar.monthrange(2024, month)[1] for month in parts.months)
        return any(abs(day) <= longest for day in parts.month_days)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"kind": "rrule", "expression": self.expression, "start": self.start.isoformat()}


@functools.lru_cache(maxsize=4096)
def _parse_cached(expression: str) -> RRuleParts:
    return rrule_parser.parse(expression)


@functools.lru_cache(maxsize=256)
def _list_counted_times(rule: RRule) -> list[dt.datetime]:
    times = _Search(_complete_parts(rule.expression, rule.start), rule.start).iterate_times(
        rule.start, _MAX_COUNTED_YEARS
    )
    return list(itertools.islice(times, rule.parts.count))


@functools.lru_cache(maxsize=4096)
def _complete_parts(expression: str, start: dt.datetime) -> RRuleParts:
    """Return the parts of a rule, completed with those that the start determines."""
    parts = _parse_cached(expression)
    hourly = parts.frequency is RRuleFrequency.HOURLY
    parts = replace(
        parts,
        hours=tuple(sorted(parts.hours or (range(24) if hourly else (start.hour,)))),
        minutes=tuple(sorted(parts.minutes or (start.minute,))),
        seconds=tuple(sorted(parts.seconds or (start.second,))),
    )
    if parts.weeks:
        return parts if parts.days or parts.month_days else replace(parts, days=((None, start.weekday()),))
    if parts.year_days or parts.month_days or parts.days:
        return parts
    match parts.frequency:
        case RRuleFrequency.YEARLY:
            return replace(parts, months=parts.months or (start.month,), month_days=(start.day,))
        case RRuleFrequency.MONTHLY:
            return replace(parts, month_days=(start.day,))
        case RRuleFrequency.WEEKLY:
            return replace(parts, days=((None, start.weekday()),))
    return parts


@dataclass(frozen=True, slots=True)
class _Search:
    """The times of a rule whose parts are complete."""

    parts: RRuleParts
    start: dt.datetime

    def iterate_times(self, begin: dt.datetime, years: int) -> Iterator[dt.datetime]:
        """Return the times from `begin` on, ascending, until none has been found for long."""
        last_year = begin.year + years
        if self.parts.positions:
            times = self._select_positions(self._iterate_days(self._get_period_begin(begin.date()), last_year))
        else:
            times = (
                time
                for day in self._iterate_days(begin.date(), last_year)
                for time in self._iterate_times_of_day(day, begin)
            )
        return (time for time in times if time >= begin and time >= self.start)

    def _select_positions(self, days: Iterator[dt.date]) -> Iterator[dt.datetime]:
        """Yield the times that BYSETPOS selects from all the times of each period."""
        empty = 0
        for _, period in itertools.groupby(days, self._get_period):
            times = [
                time
                for day in period
                for time in self._iterate_times_of_day(day, dt.datetime.combine(dt.date.min, dt.time()))
            ]
            places = {place - 1 if place > 0 else len(times) + place for place in self.parts.positions}
            chosen = [times[place] for place in sorted(places) if 0 <= place < len(times)]
            empty = 0 if chosen else empty + 1
            if empty > _MAX_EMPTY_PERIODS:
                return
            yield from chosen

    def _iterate_times_of_day(self, day: dt.date, begin: dt.datetime) -> Iterator[dt.datetime]:
        """Yield the times of a day, without those of hours that have passed at `begin`."""
        for hour in self._get_hours(day):
            if hour >= begin.hour or day > begin.date():
                for minute, second in itertools.product(self.parts.minutes, self.parts.seconds):
                    yield dt.datetime.combine(day, dt.time(hour, minute, second))

    def _get_hours(self, day: dt.date) -> tuple[int, ...]:
        if self.parts.frequency is not RRuleFrequency.HOURLY or self.parts.interval == 1:
            return self.parts.hours
        passed = (day - self.start.date()).days * 24 - self.start.hour
        return tuple(hour for hour in self.parts.hours if (passed + hour) % self.parts.interval == 0)

    def _iterate_days(self, begin: dt.date, last_year: int) -> Iterator[dt.date]:
        """Yield the matching days from `begin` on."""
        looked = 0
        for year in range(begin.year, min(last_year, dt.MAXYEAR) + 1):
            for day in self._iterate_candidate_days(year, begin):
                looked += 1
                if self._is_matching_day(day):
                    looked = 0
                    yield day
            if looked > _MAX_DAYS_SEARCHED:
                return

    def _iterate_candidate_days(self, year: int, begin: dt.date) -> Iterator[dt.date]:
        parts = self.parts
        if parts.frequency is RRuleFrequency.YEARLY and (year - self.start.year) % parts.interval:
            return
        for month in sorted(parts.months) or _MONTHS:
            length = calendar.monthrange(year, month)[1]
            if (year, month) < (begin.year, begin.month) or self._is_month_skipped(year, month):
                continue
            for number in self._list_month_days(year, month, length):
                if (day := dt.date(year, month, number)) >= begin:
                    yield day

    def _list_month_days(self, year: int, month: int, length: int) -> Iterable[int]:
        """Return the candidate days of a month."""
        if self.parts.month_days:
            return _list_month_days(self.parts.month_days, length)
        if not self.parts.year_days:
            return self._list_weekday_days(year, month, length)
        passed = _get_year_day(dt.date(year, month, 1)) - 1
        whole = 365 + calendar.isleap(year)
        days = {number if number > 0 else whole + 1 + number for number in self.parts.year_days}
        return sorted(day - passed for day in days if 1 <= day - passed <= length)

    def _list_weekday_days(self, year: int, month: int, length: int) -> Iterable[int]:
        """Return the days of a month that have a day of the week which the rule names."""
        weekdays = {weekday for _, weekday in self.parts.days}
        if len(weekdays) in (0, 7):
            return range(1, length + 1)
        first = dt.date(year, month, 1).weekday()
        return sorted(day for weekday in weekdays for day in range(1 + (weekday - first) % 7, length + 1, 7))

    def _is_month_skipped(self, year: int, month: int) -> bool:
        passed = (year - self.start.year) * 12 + month - self.start.month
        return self.parts.frequency is RRuleFrequency.MONTHLY and passed % self.parts.interval != 0

    def _is_matching_day(self, day: dt.date) -> bool:
        parts = self.parts
        if parts.days and not any(weekday == day.weekday() and self._is_nth(day, n) for n, weekday in parts.days):
            return False
        if parts.year_days and not _matches_number(
            _get_year_day(day), 365 + calendar.isleap(day.year), parts.year_days
        ):
            return False
        if parts.weeks and not _matches_number(*_get_week_number_and_count(day, parts.week_start), parts.weeks):
            return False
        return parts.interval == 1 or self._is_interval_day(day)

    def _is_interval_day(self, day: dt.date) -> bool:
        """Return whether the interval includes this day; years and months that it excludes have been skipped before."""
        start, week_start = self.start.date(), self.parts.week_start
        if self.parts.frequency is RRuleFrequency.DAILY:
            return (day - start).days % self.parts.interval == 0
        if self.parts.frequency is RRuleFrequency.WEEKLY:
            passed = _get_week_begin(day, week_start) - _get_week_begin(start, week_start)
            return passed.days // 7 % self.parts.interval == 0
        return self.parts.frequency is not RRuleFrequency.HOURLY or bool(self._get_hours(day))

    def _is_nth(self, day: dt.date, number: int | None) -> bool:
        """Return whether a day is the n-th of its weekday in the month.

        If the rule is yearly and names no months, days are counted in the year.
        """
        if number is None:
            return True
        if self.parts.frequency is RRuleFrequency.YEARLY and not self.parts.months:
            place, length = _get_year_day(day), 365 + calendar.isleap(day.year)
        else:
            place, length = day.day, calendar.monthrange(day.year, day.month)[1]
        return number == (place - 1) // 7 + 1 if number > 0 else -number == (length - place) // 7 + 1

    def _get_period(self, day: dt.date) -> Hashable:
        match self.parts.frequency:
            case RRuleFrequency.YEARLY:
                return day.year
            case RRuleFrequency.MONTHLY:
                return day.year, day.month
        return _get_week_begin(day, self.parts.week_start)

    def _get_period_begin(self, day: dt.date) -> dt.date:
        match self.parts.frequency:
            case RRuleFrequency.YEARLY:
                return day.replace(month=1, day=1)
            case RRuleFrequency.MONTHLY:
                return day.replace(day=1)
        return _get_week_begin(day, self.parts.week_start)


def _list_month_days(numbers: tuple[int, ...], length: int) -> list[int]:
    days = {number if number > 0 else length + 1 + number for number in numbers}
    return sorted(day for day in days if 1 <= day <= length)


def _matches_number(place: int, length: int, numbers: tuple[int, ...]) -> bool:
    return place in numbers or place - length - 1 in numbers


def _get_year_day(day: dt.date) -> int:
    return day.toordinal() - dt.date(day.year, 1, 1).toordinal() + 1


def _get_week_begin(day: dt.date, week_start: int) -> dt.date:
    return day - (day.weekday() - week_start) % 7 * _DAY


def _get_week_number_and_count(day: dt.date, week_start: int) -> tuple[int, int]:
    """Return the number of a day's week, and the number of weeks in that week's year.

    The first week of a year has at least four days in the year.
    """
    # December 28 lies in the last week of its year, and the fourth day of a week in the year of the week.
    number, year = _get_week_number(day, week_start)
    return number, _get_week_number(dt.date(year, 12, 28), week_start)[0]


def _get_week_number(day: dt.date, week_start: int) -> tuple[int, int]:
    middle = _get_week_begin(day, week_start) + 3 * _DAY
    return (_get_year_day(middle) - 1) // 7 + 1, middle.year
