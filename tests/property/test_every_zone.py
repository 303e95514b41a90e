"""Times of rules in hundreds of zones: around changes of clocks, on leap days and at the turn of the year."""

import calendar
import datetime as dt
import functools
import itertools
import zoneinfo
from collections.abc import Callable, Iterator

import pytest

from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule, DailyRule, MonthlyRule, WeeklyRule
from jobworker.domain.schedules.rules.cron import CronRule
from jobworker.domain.schedules.rules.fixed import IntervalRule, OnceRule
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.time_zones import DstPolicy, FoldPolicy, GapPolicy, get_zone_names
from jobworker.domain.schedules.timetable import Rule, Timetable, find_next_time, iterate_occurrences

DAY, TICK = dt.timedelta(days=1), dt.timedelta(microseconds=1)
DSTS = [DstPolicy(gap, fold) for gap, fold in itertools.product(GapPolicy, FoldPolicy)]

#: A leap year, and years in which some zones crossed the date line or moved by half an hour.
YEARS = (2024, 2011, 2018)

DayPredicate = Callable[[dt.date], bool]


def make_rules(time: dt.time) -> Iterator[tuple[Rule, DayPredicate]]:
    """Yield one rule of each kind at a time of day, with a simple predicate of the days on which it is due."""
    yield DailyRule(time), lambda day: True
    yield WeeklyRule(frozenset({0, 5}), time), lambda day: day.weekday() in (0, 5)
    yield MonthlyRule(29, time), lambda day: day.day == 29
    yield MonthlyRule(None, time), lambda day: day.day == calendar.monthrange(day.year, day.month)[1]
    yield BusinessDayRule(-1, time), lambda day: day == is_last_weekday(day)
    yield CronRule(f"{time.minute} {time.hour} * * *"), lambda day: True
    yield CronRule(f"{time.second} {time.minute} {time.hour} 29 2 *"), lambda day: (day.month, day.day) == (2, 29)
    start = dt.datetime.combine(dt.date(2008, 2, 29), time)
    yield RRule("FREQ=DAILY", start), lambda day: True
    yield RRule("FREQ=WEEKLY;BYDAY=SU", start), lambda day: day.weekday() == 6
    yield RRule("FREQ=MONTHLY;BYMONTHDAY=-1", start), lambda day: (day + DAY).day == 1
    yield RRule("FREQ=YEARLY", start), lambda day: (day.month, day.day) == (2, 29)


def is_last_weekday(day: dt.date) -> dt.date:
    last = day.replace(day=calendar.monthrange(day.year, day.month)[1])
    return last - max(0, last.weekday() - 4) * DAY


def list_moments(local: dt.datetime, zone: zoneinfo.ZoneInfo, dst: DstPolicy) -> list[dt.datetime]:
    """Return the moments of a local time, distinguished by PEP 495."""
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    if first == second:
        return [first]
    if first.astimezone(zone).replace(tzinfo=None, fold=0) != local:
        return [first] if dst.gap is GapPolicy.SHIFT else []
    return {FoldPolicy.FIRST: [first], FoldPolicy.SECOND: [second], FoldPolicy.BOTH: [first, second]}[dst.fold]


@functools.cache
def list_remarkable_days(zone: zoneinfo.ZoneInfo, *years: int) -> list[dt.datetime]:
    """Return the changes of clocks in these years, and the leap day or the turn of the year."""
    days = [dt.datetime(2024, 2, 29, tzinfo=dt.UTC) if len(zone.key) % 2 else dt.datetime(2025, 1, 1, tzinfo=dt.UTC)]
    for year in years:
        hours = [dt.datetime(year, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=at) for at in range(0, 8784, 6)]
        for earlier, hour in itertools.pairwise(hours):
            offset = earlier.astimezone(zone).utcoffset()
            quarters = (earlier + quarter * dt.timedelta(minutes=15) for quarter in range(25))
            if hour.astimezone(zone).utcoffset() != offset:
                days.append(next(time for time in quarters if time.astimezone(zone).utcoffset() != offset))
    return days


@pytest.mark.parametrize("part", range(4))
def test_rules_due_at_their_wall_clock_times(part: int) -> None:
    """Half of the zones; for each remarkable moment one policy and one time of day close to the moment."""
    for number, name in enumerate(sorted(get_zone_names())[part::8]):
        zone = zoneinfo.ZoneInfo(name)
        for at, moment in enumerate(list_remarkable_days(zone, YEARS[number % len(YEARS)])):
            near = moment.astimezone(zone) - dt.timedelta(minutes=30 * (number % 13))
            time, dst = near.time().replace(minute=near.minute // 30 * 30), DSTS[(number + at) % len(DSTS)]
            after, before = moment - 2 * DAY, moment + 2 * DAY
            days = [near.date() + offset * DAY for offset in range(-4, 5)]
            for rule, named in make_rules(time):
                times = [dt.datetime.combine(day, time) for day in days if named(day)]
                moments = {moment for local in times for moment in list_moments(local, zone, dst)}
                expected = sorted(moment for moment in moments if after < moment < before)
                occurrences = list(iterate_occurrences(Timetable(rule, zone, dst), after, before))
                assert occurrences == expected, (name, rule, dst, moment)
                # Searches that start in between, above all within a gap or a fold.
                for search_start in (moment + quarter * dt.timedelta(minutes=15) for quarter in range(-4, 9, 2)):
                    following = next(
                        (expected_time for expected_time in expected if expected_time > search_start), None
                    )
                    assert following in (None, find_next_time(Timetable(rule, zone, dst), search_start)), (
                        name,
                        rule,
                        dst,
                        search_start,
                    )


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns"])
def test_interval_and_once_rules_ignore_clock_changes(name: str) -> None:
    zone = zoneinfo.ZoneInfo(name)
    for moment in list_remarkable_days(zone, *YEARS):
        table = Timetable(IntervalRule(5400.0, moment - dt.timedelta(seconds=7)), zone)
        occurrences = list(iterate_occurrences(table, moment - DAY, moment + DAY))
        assert [later - earlier for earlier, later in itertools.pairwise(occurrences)] == [
            dt.timedelta(seconds=5400)
        ] * 31
        once = Timetable(OnceRule(moment), zone)
        assert find_next_time(once, moment - TICK) == moment
        assert find_next_time(once, moment) is None


@pytest.mark.parametrize("name", sorted(get_zone_names())[::60])
def test_start_and_end_bounds_hold_across_clock_changes(name: str) -> None:
    """`start` is included and `end` is not; no time in between is lost."""
    zone = zoneinfo.ZoneInfo(name)
    for moment in list_remarkable_days(zone, 2024)[-1:]:
        free = Timetable(CronRule("*/30 * * * *"), zone)
        whole = list(iterate_occurrences(free, moment - DAY, moment + DAY))
        assert whole == sorted(set(whole))
        start, end = whole[3], whole[-3]
        bound = Timetable(free.rule, zone, start=start, end=end)
        assert list(iterate_occurrences(bound, moment - DAY, moment + DAY)) == whole[3:-3]
        assert all(find_next_time(free, occurrence - TICK) == occurrence for occurrence in whole)
