"""In hundreds of zones: what rules name around changes of clocks, on leap days and at the turn of years."""

import calendar
import datetime as dt
import functools
import itertools
import zoneinfo
from collections.abc import Callable, Iterator

import pytest

from jobworker.domain.rules.cron import Cron
from jobworker.domain.rules.days import BusinessDay, Daily, Monthly, Weekly
from jobworker.domain.rules.moments import Interval, Once
from jobworker.domain.rules.recurrence import RRule
from jobworker.domain.timetable import Rule, Timetable, next_after, occurrences
from jobworker.domain.zones import Dst, Fold, Gap, known_zones

DAY, TICK = dt.timedelta(days=1), dt.timedelta(microseconds=1)
DSTS = [Dst(gap, fold) for gap, fold in itertools.product(Gap, Fold)]

#: A leap year; and one in which some zones crossed the date line, or moved by half an hour.
YEARS = (2024, 2011, 2018)

Named = Callable[[dt.date], bool]


def rules(time: dt.time) -> Iterator[tuple[Rule, Named]]:
    """One rule of each kind at a time of day, and on which days it is due in the plainest words."""
    yield Daily(time), lambda day: True
    yield Weekly(frozenset({0, 5}), time), lambda day: day.weekday() in (0, 5)
    yield Monthly(29, time), lambda day: day.day == 29
    yield Monthly(None, time), lambda day: day.day == calendar.monthrange(day.year, day.month)[1]
    yield BusinessDay(-1, time), lambda day: day == _last_weekday(day)
    yield Cron(f"{time.minute} {time.hour} * * *"), lambda day: True
    yield Cron(f"{time.second} {time.minute} {time.hour} 29 2 *"), lambda day: (day.month, day.day) == (2, 29)
    start = dt.datetime.combine(dt.date(2008, 2, 29), time)
    yield RRule("FREQ=DAILY", start), lambda day: True
    yield RRule("FREQ=WEEKLY;BYDAY=SU", start), lambda day: day.weekday() == 6
    yield RRule("FREQ=MONTHLY;BYMONTHDAY=-1", start), lambda day: (day + DAY).day == 1
    yield RRule("FREQ=YEARLY", start), lambda day: (day.month, day.day) == (2, 29)


def _last_weekday(day: dt.date) -> dt.date:
    last = day.replace(day=calendar.monthrange(day.year, day.month)[1])
    return last - max(0, last.weekday() - 4) * DAY


def standing_for(local: dt.datetime, zone: zoneinfo.ZoneInfo, dst: Dst) -> list[dt.datetime]:
    """The moments that a time on the clock stands for, as PEP 495 tells them apart."""
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    if first == second:
        return [first]
    if first.astimezone(zone).replace(tzinfo=None, fold=0) != local:
        return [first] if dst.gap is Gap.SHIFT else []
    return {Fold.FIRST: [first], Fold.SECOND: [second], Fold.BOTH: [first, second]}[dst.fold]


@functools.cache
def remarkable(zone: zoneinfo.ZoneInfo, *years: int) -> list[dt.datetime]:
    """Changes of clocks in these years, and the leap day or the turn of the year."""
    found = [dt.datetime(2024, 2, 29, tzinfo=dt.UTC) if len(zone.key) % 2 else dt.datetime(2025, 1, 1, tzinfo=dt.UTC)]
    for year in years:
        hours = [dt.datetime(year, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=at) for at in range(0, 8784, 6)]
        for earlier, hour in itertools.pairwise(hours):
            offset = earlier.astimezone(zone).utcoffset()
            quarters = (earlier + quarter * dt.timedelta(minutes=15) for quarter in range(25))
            if hour.astimezone(zone).utcoffset() != offset:
                found.append(next(each for each in quarters if each.astimezone(zone).utcoffset() != offset))
    return found


@pytest.mark.parametrize("part", range(4))
def test_rules_are_due_where_the_clock_shows_their_times(part: int) -> None:
    """Every second zone, and for each remarkable moment of it one policy and one time of day close to it."""
    for number, name in enumerate(sorted(known_zones())[part::8]):
        zone = zoneinfo.ZoneInfo(name)
        for at, moment in enumerate(remarkable(zone, YEARS[number % len(YEARS)])):
            near = moment.astimezone(zone) - dt.timedelta(minutes=30 * (number % 13))
            time, dst = near.time().replace(minute=near.minute // 30 * 30), DSTS[(number + at) % len(DSTS)]
            after, before = moment - 2 * DAY, moment + 2 * DAY
            days = [near.date() + offset * DAY for offset in range(-4, 5)]
            for rule, named in rules(time):
                times = [dt.datetime.combine(day, time) for day in days if named(day)]
                moments = {moment for local in times for moment in standing_for(local, zone, dst)}
                expected = sorted(moment for moment in moments if after < moment < before)
                found = list(occurrences(Timetable(rule, zone, dst), after, before))
                assert found == expected, (name, rule, dst, moment)
                # Asked from in between, within a gap or a fold above all.
                for asked in (moment + quarter * dt.timedelta(minutes=15) for quarter in range(-4, 9, 2)):
                    following = next((each for each in expected if each > asked), None)
                    assert following in (None, next_after(Timetable(rule, zone, dst), asked)), (name, rule, dst, asked)


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns"])
def test_intervals_and_single_moments_know_no_clocks(name: str) -> None:
    zone = zoneinfo.ZoneInfo(name)
    for moment in remarkable(zone, *YEARS):
        table = Timetable(Interval(5400.0, moment - dt.timedelta(seconds=7)), zone)
        found = list(occurrences(table, moment - DAY, moment + DAY))
        assert [later - earlier for earlier, later in itertools.pairwise(found)] == [dt.timedelta(seconds=5400)] * 31
        once = Timetable(Once(moment), zone)
        assert next_after(once, moment - TICK) == moment
        assert next_after(once, moment) is None


@pytest.mark.parametrize("name", sorted(known_zones())[::60])
def test_bounds_hold_where_clocks_change(name: str) -> None:
    """`start` counts and `end` does not; in between nothing is lost."""
    zone = zoneinfo.ZoneInfo(name)
    for moment in remarkable(zone, 2024)[-1:]:
        free = Timetable(Cron("*/30 * * * *"), zone)
        whole = list(occurrences(free, moment - DAY, moment + DAY))
        assert whole == sorted(set(whole))
        start, end = whole[3], whole[-3]
        bound = Timetable(free.rule, zone, start=start, end=end)
        assert list(occurrences(bound, moment - DAY, moment + DAY)) == whole[3:-3]
        assert all(next_after(free, each - TICK) == each for each in whole)
