"""Expressions compared with other libraries; deliberate differences are left out by the strategies."""

import datetime as dt
import itertools
from collections.abc import Iterator

import cronsim
from croniter import croniter  # type: ignore[import-untyped]
from dateutil import rrule
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jobworker.domain.schedules.rules.cron import CronRule, check_expression
from jobworker.domain.schedules.rules.rrule import RRule
from jobworker.domain.schedules.rules.rrule_parser import WEEKDAY_CODES, parse
from jobworker.domain.schedules.timetable import WallClockRule

TICK = dt.timedelta(microseconds=1)
COMPARED_COUNT = 6

BEGINS = st.datetimes(dt.datetime(1995, 1, 1), dt.datetime(2035, 1, 1)).map(  # noqa: DTZ001
    lambda time: time.replace(microsecond=0)
)


def list_times(rule: WallClockRule, begin: dt.datetime) -> Iterator[dt.datetime]:
    time = rule.find_first(begin)
    while time is not None:
        yield time
        time = rule.find_first(time + TICK)


def fields(lowest: int, highest: int) -> st.SearchStrategy[str]:
    """Return a strategy of number fields: all, steps, a list, or a range."""
    number = st.integers(lowest, highest)
    lists = st.lists(number, min_size=1, max_size=3).map(lambda numbers: ",".join(map(str, numbers)))
    # croniter reads a range of one number, such as 5-5, as all numbers.
    ranges = st.tuples(number, number).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: f"{ends[0]}-{ends[1]}")
    return st.one_of(st.just("*"), st.integers(1, highest).map("*/{}".format), lists, ranges)


@st.composite
def crons(draw: st.DrawFn, of_month: st.SearchStrategy[str], of_week: st.SearchStrategy[str]) -> str:
    seconds = draw(st.one_of(st.just(""), fields(0, 59).map("{} ".format)))
    minute, hour = draw(fields(0, 59)), draw(fields(0, 23))
    return f"{seconds}{minute} {hour} {draw(of_month)} {draw(fields(1, 12))} {draw(of_week)}"


MONTH_DAYS = st.one_of(fields(1, 31), st.sampled_from(["L", "LW", "1,L"]))
WEEK_DAYS = st.one_of(fields(0, 7), st.sampled_from(["MON", "SUN,WED", "MON-FRI", "5L", "FRI#2", "1#5", "0,3L"]))


@settings(max_examples=60)
@given(crons(MONTH_DAYS, WEEK_DAYS), BEGINS)
@example("0 0 29 2 *", dt.datetime(2097, 1, 1))  # noqa: DTZ001
@example("0 0 */7 2 MON#5", dt.datetime(2026, 1, 1))  # noqa: DTZ001
def test_cron_times_match_cronsim(expression: str, begin: dt.datetime) -> None:
    try:
        check_expression(expression)
    except cronsim.CronSimError:
        assume(False)
    theirs = cronsim.CronSim(expression, begin - dt.timedelta(seconds=1))
    assert list(itertools.islice(list_times(CronRule(expression), begin), COMPARED_COUNT)) == list(
        itertools.islice(theirs, COMPARED_COUNT)
    )


#: With a day of the month *and* of the week, croniter accepts either; Debian's cron and JobWorker look for a star.
DAYS_OF_ONE_KIND = st.one_of(
    st.tuples(st.one_of(fields(1, 28), st.just("L")), st.just("*")),
    st.tuples(st.just("*"), st.one_of(fields(0, 6), st.sampled_from(["MON", "SUN,WED", "MON-FRI", "5#2"]))),
)


@settings(max_examples=60)
@given(st.data(), BEGINS)
def test_cron_times_match_croniter(data: st.DataObject, begin: dt.datetime) -> None:
    of_month, of_week = data.draw(DAYS_OF_ONE_KIND)
    expression = data.draw(crons(st.just(of_month), st.just(of_week)))
    reference = croniter(expression, begin - dt.timedelta(seconds=1), second_at_beginning=True)
    theirs = [reference.get_next(dt.datetime) for _ in range(COMPARED_COUNT)]
    assert list(itertools.islice(list_times(CronRule(expression), begin), COMPARED_COUNT)) == theirs


def numbers(name: str, values: list[int]) -> st.SearchStrategy[str]:
    chosen = st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)
    return st.one_of(st.just(""), chosen.map(lambda some: f";{name}={','.join(map(str, some))}"))


@st.composite
def week_days(draw: st.DrawFn) -> str:
    """Draw BYDAY without mixed `2MO,TU`: dateutil requires both, which no day fulfills; RFC 5545 requires either."""
    number = st.sampled_from(["1", "2", "-1", "5"] if draw(st.booleans()) else [""])
    days = draw(st.lists(st.tuples(number, st.sampled_from(WEEKDAY_CODES)), min_size=1, max_size=3))
    return ";BYDAY=" + ",".join(map("".join, days))


@st.composite
def recurrences(draw: st.DrawFn) -> str:
    """Draw a recurrence rule without BYWEEKNO, because dateutil omits weeks of the year before."""
    frequency = draw(st.sampled_from(["HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    parts = (
        st.one_of(st.just(""), st.integers(2, 6).map(";INTERVAL={}".format)),
        st.one_of(st.just(""), st.integers(1, 30).map(";COUNT={}".format), st.just(";UNTIL=20240315T120000")),
        st.one_of(st.just(""), st.sampled_from(WEEKDAY_CODES).map(";WKST={}".format)),
        numbers("BYMONTH", list(range(1, 13))),
        numbers("BYMONTHDAY", [1, 5, 13, 29, 30, 31, -1, -2, -31]),
        numbers("BYYEARDAY", [1, 60, 366, -1, -366, 200]),
        st.one_of(st.just(""), week_days()),
        numbers("BYHOUR", [0, 3, 12, 23]),
        numbers("BYMINUTE", [0, 17, 59]),
        numbers("BYSETPOS", [1, 2, -1, 3, -2]),
    )
    return f"FREQ={frequency}" + "".join(draw(part) for part in parts)


@settings(max_examples=100)
@given(recurrences(), BEGINS, st.timedeltas(dt.timedelta(0), dt.timedelta(days=3000)))
@example("FREQ=MONTHLY", dt.datetime(2024, 1, 31, 6), dt.timedelta(0))  # noqa: DTZ001
@example("FREQ=YEARLY", dt.datetime(2024, 2, 29, 6), dt.timedelta(1))  # noqa: DTZ001
@example("FREQ=YEARLY;INTERVAL=6;COUNT=6;BYYEARDAY=1;BYDAY=MO", dt.datetime(2000, 1, 1), dt.timedelta(0))  # noqa: DTZ001
def test_recurrence_times_match_dateutil(expression: str, start: dt.datetime, passed: dt.timedelta) -> None:
    try:
        parts = parse(expression)
    except ValueError:
        assume(False)
    begin = start + passed
    ours = list(itertools.islice(list_times(RRule(expression, start), begin), COMPARED_COUNT))
    # A rule without times, and a rule after its end, make dateutil search through all years.
    compared_count = COMPARED_COUNT if ours and (parts.count or parts.until) else len(ours)
    theirs = rrule.rrulestr(expression, dtstart=start).xafter(begin, compared_count, inc=True) if compared_count else []
    # A rule with COUNT is evaluated for 200 years from its start.
    assert [time for time in theirs if not parts.count or time.year <= start.year + 200] == ours


def test_byweekno_matches_iso_weeks() -> None:
    """Weeks that dateutil omits."""
    for number in (1, 20, 52, 53):
        rule = RRule(f"FREQ=YEARLY;BYWEEKNO={number};BYDAY=MO,TU,WE,TH,FR,SA,SU", dt.datetime(2000, 1, 1, 6))  # noqa: DTZ001
        begin = dt.datetime(2000, 1, 1)  # noqa: DTZ001
        days = (begin + dt.timedelta(days=day, hours=6) for day in range(12 * 365))
        expected = [day for day in days if day.isocalendar().week == number]
        assert list(itertools.islice(list_times(rule, begin), len(expected))) == expected
