"""Occurrences compared with a naive search that reads the zone's clock at every minute."""

import calendar
import datetime as dt
import functools
import zoneinfo
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from jobworker.domain.schedules.rules.calendar_days import BusinessDayRule, DailyRule, MonthlyRule, WeeklyRule
from jobworker.domain.schedules.rules.cron import CronRule
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.time_zones import DstPolicy, FoldPolicy, GapPolicy
from jobworker.domain.schedules.timetable import Rule, Timetable, iterate_occurrences

ZONES = sorted(zoneinfo.available_timezones() - {"Factory", "localtime"})
MINUTE = dt.timedelta(minutes=1)
DAYS = 3

MinutePredicate = Callable[[dt.datetime], bool]


@st.composite
def rules(draw: st.DrawFn, hour: int) -> tuple[Rule, MinutePredicate]:  # noqa: PLR0911
    """Draw a rule with times close to an hour, and a simple predicate of the minutes that the rule names."""
    near = (hour + draw(st.integers(-2, 2))) % 24
    time = dt.time(near, draw(st.sampled_from([0, 1, 15, 30, 45, 59])))
    kind = draw(st.sampled_from(["daily", "weekly", "monthly", "last", "business", "cron", "frequent", "rrule"]))
    if kind == "daily":
        return DailyRule(time), lambda local: local.time() == time
    if kind == "weekly":
        days = draw(st.frozensets(st.integers(0, 6), min_size=1))
        return WeeklyRule(days, time), lambda local: local.time() == time and local.weekday() in days
    if kind == "monthly":
        day = draw(st.integers(1, 31))
        return MonthlyRule(day, time), lambda local: local.time() == time and local.day == day
    if kind == "last":
        return MonthlyRule(
            None, time
        ), lambda local: local.time() == time and local.day == calendar.monthrange(local.year, local.month)[1]
    if kind == "business":
        number = draw(st.integers(-23, 23).filter(bool))
        return BusinessDayRule(number, time), lambda local: local.time() == time and _is_nth(local, number)
    if kind == "cron":
        return CronRule(f"{time.minute} {time.hour} * * *"), lambda local: local.time() == time
    if kind == "frequent":
        step = draw(st.sampled_from([1, 5, 15, 30, 60]))
        every = f"*/{step} * * * *" if step < 60 else "0 * * * *"
        return CronRule(every), lambda local: local.minute % step == 0
    start = dt.datetime.combine(draw(st.dates(dt.date(1960, 1, 1), dt.date(1974, 1, 1))), time)
    return RRule("FREQ=DAILY", start), lambda local: local.time() == time


def _is_nth(local: dt.datetime, number: int) -> bool:
    length = calendar.monthrange(local.year, local.month)[1]
    days = [day for day in range(1, length + 1) if dt.date(local.year, local.month, day).weekday() < 5]
    return abs(number) <= len(days) and days[number - 1 if number > 0 else number] == local.day


def list_times_naively(
    is_named: MinutePredicate, zone: zoneinfo.ZoneInfo, dst: DstPolicy, after: dt.datetime, minutes: int
) -> list[dt.datetime]:
    """Return the moments of named times by reading the clock at every minute."""
    times = set()
    shift_from = after - dt.timedelta(days=2)
    for number in range(int((after - shift_from) / MINUTE) + minutes + 1):
        moment = shift_from + number * MINUTE
        local = moment.astimezone(zone)
        shown = local.replace(tzinfo=None, fold=0)
        twin = shown.replace(tzinfo=zone, fold=1 - local.fold)
        twice = (
            twin.astimezone(dt.UTC) != moment
            and twin.astimezone(dt.UTC).astimezone(zone).replace(tzinfo=None, fold=0) == shown
        )
        counts = not twice or dst.fold is FoldPolicy.BOTH or (local.fold == 0) == (dst.fold is FoldPolicy.FIRST)
        if is_named(shown) and counts:
            times.add(moment)
        before = (moment - MINUTE).astimezone(zone).replace(tzinfo=None, fold=0)
        if dst.gap is GapPolicy.SHIFT and shown > before + MINUTE:
            gap = int((shown - before) / MINUTE) - 1
            times |= {moment + skipped * MINUTE for skipped in range(gap) if is_named(before + (skipped + 1) * MINUTE)}
    return sorted(time for time in times if after < time < after + minutes * MINUTE)


@functools.cache
def list_clock_changes(zone: str, year: int) -> list[dt.datetime]:
    """Return the hours of a year in which the clocks of the zone change."""
    info = zoneinfo.ZoneInfo(zone)
    hours = [dt.datetime(year, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=number) for number in range(366 * 24)]
    offsets = [hour.astimezone(info).utcoffset() for hour in hours]
    return [hours[at] for at in range(1, len(hours)) if offsets[at] != offsets[at - 1]]


@st.composite
def clock_changes(draw: st.DrawFn) -> tuple[str, dt.datetime, dt.timedelta]:
    """Draw a zone, a moment at which its clocks change (any moment if they never change), and up to two days."""
    zone, year = draw(st.sampled_from(ZONES)), draw(st.integers(1975, 2037))
    changes = list_clock_changes(zone, year)
    moment = (
        draw(st.sampled_from(changes)) if changes else dt.datetime(year, draw(st.integers(1, 12)), 28, tzinfo=dt.UTC)
    )
    return zone, moment, dt.timedelta(hours=draw(st.integers(0, 47)), minutes=draw(st.integers(0, 59)))


DSTS = st.builds(DstPolicy, st.sampled_from(list(GapPolicy)), st.sampled_from(list(FoldPolicy)))


@settings(max_examples=60, deadline=None)
@given(st.data(), clock_changes(), DSTS)
def test_occurrences_around_clock_changes_match_naive_search(
    data: st.DataObject, where: tuple[str, dt.datetime, dt.timedelta], dst: DstPolicy
) -> None:
    zone, change, ahead = where
    info = zoneinfo.ZoneInfo(zone)
    rule, named = data.draw(rules(change.astimezone(info).hour))
    after, table = change - ahead, Timetable(rule, info, dst)
    minutes = DAYS * 24 * 60
    whole = [*iterate_occurrences(table, after, after + minutes * MINUTE)]
    # Offsets with seconds occur only in the past; the naive search reads whole minutes only.
    if all((after + hours * 60 * MINUTE).astimezone(info).utcoffset().seconds % 60 == 0 for hours in range(-48, 80)):  # type: ignore[union-attr]
        assert whole == list_times_naively(named, info, dst, after, minutes)
    assert whole == sorted(set(whole))
