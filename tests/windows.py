"""Whether schedules did what they should within a window of time: what is missing, late, extra or wrong.

What should have happened comes from `named`, which goes through the window second by second with a wall clock and
shares nothing with the product; what did happen, from the ledger, the executions, and the attempts that began.
"""

import calendar
import collections
import datetime as dt
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.store import schema
from jobworker.store.database import Database

#: A schedule's id, and the nominal time.
Occurrence = tuple[str, dt.datetime]

#: Whether a rule names a time on the wall clock (naive).
Names = Callable[[dt.datetime], bool]

_SECOND = dt.timedelta(seconds=1)
_MINUTE = dt.timedelta(minutes=1)

#: No clock within these tests is set by more.
_LARGEST_CHANGE = dt.timedelta(hours=3)

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger."""

    occurrence: Occurrence
    outcome: str
    execution: str | None
    recorded_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Run:
    """An execution that a schedule brought about."""

    execution: str
    occurrence: Occurrence


@dataclass(frozen=True, slots=True)
class Findings:
    """What is not as it should be, each as a sentence with its time."""

    missing: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


#: Nothing to complain of.
CLEAN = Findings()


def find(
    expected: Mapping[Occurrence, str],
    ledger: Iterable[Entry],
    runs: Iterable[Run],
    starts: Mapping[tuple[str, int], int] | None = None,
    bound: dt.timedelta | None = None,
) -> Findings:
    """Compare what happened with the outcome that each occurrence should have had.

    `starts`: how often each (execution, attempt) really began. `bound`: what is recorded later than that is late.
    """
    rows = {entry.occurrence: entry for entry in ledger}
    made = list(runs)
    return Findings(
        tuple(sorted(_missing(expected, rows, made))),
        tuple(sorted(_late(rows, bound))),
        tuple(sorted([*_unexpected(expected, rows), *_superfluous(rows, made), *_begun_again(made, starts or {})])),
        tuple(sorted(_wrong(expected, rows))),
    )


def check(
    database: Database,
    expected: Mapping[Occurrence, str],
    begin: dt.datetime,
    end: dt.datetime,
    starts: Mapping[tuple[str, int], int] | None = None,
    bound: dt.timedelta | None = None,
) -> Findings:
    """`find` for what a database says of the occurrences in [begin, end)."""
    with database.read() as connection:
        return find(expected, _ledger(connection, begin, end), _runs(connection, begin, end), starts, bound)


def named(spec: Mapping[str, Any], begin: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    """The moments in [begin, end) that a schedule's rule names; every time of its wall clock is looked at."""
    rule = spec["rule"]
    found = set(_steps(rule, begin, end) if rule["kind"] == "interval" else _clock_times(spec, begin, end))
    return sorted(moment for moment in found if begin <= moment < end)


def _missing(
    expected: Mapping[Occurrence, str], rows: Mapping[Occurrence, Entry], runs: Iterable[Run]
) -> Iterator[str]:
    made = {run.execution for run in runs}
    for occurrence in expected:
        entry = rows.get(occurrence)
        if entry is None:
            yield f"{_shown(occurrence)} has no row"
        elif entry.outcome == "fired" and entry.execution not in made:
            yield f"{_shown(occurrence)} has no execution"


def _late(rows: Mapping[Occurrence, Entry], bound: dt.timedelta | None) -> Iterator[str]:
    for occurrence, entry in rows.items():
        delay = entry.recorded_at - occurrence[1]
        if bound is not None and entry.outcome == "fired" and delay > bound:
            yield f"{_shown(occurrence)} fired {delay.total_seconds():g} s later"


def _unexpected(expected: Mapping[Occurrence, str], rows: Mapping[Occurrence, Entry]) -> Iterator[str]:
    for occurrence, entry in rows.items():
        if occurrence not in expected:
            yield f"{_shown(occurrence)} is named by no rule, and is {entry.outcome}"


def _superfluous(rows: Mapping[Occurrence, Entry], runs: Iterable[Run]) -> Iterator[str]:
    for run in runs:
        entry = rows.get(run.occurrence)
        if entry is None or entry.outcome != "fired" or entry.execution != run.execution:
            yield f"{_shown(run.occurrence)} has execution {run.execution}, which is not in the ledger"


def _begun_again(runs: Iterable[Run], starts: Mapping[tuple[str, int], int]) -> Iterator[str]:
    begun: collections.Counter[str] = collections.Counter()
    for (execution, _), times in starts.items():
        begun[execution] += times
    for run in runs:
        if begun[run.execution] > 1:
            yield f"{_shown(run.occurrence)} began {begun[run.execution]} times"


def _wrong(expected: Mapping[Occurrence, str], rows: Mapping[Occurrence, Entry]) -> Iterator[str]:
    for occurrence, entry in rows.items():
        wanted = expected.get(occurrence, entry.outcome)
        if entry.outcome != wanted:
            yield f"{_shown(occurrence)} is {entry.outcome} instead of {wanted}"
        if entry.recorded_at < occurrence[1]:
            yield f"{_shown(occurrence)} was recorded before its time"


def _shown(occurrence: Occurrence) -> str:
    schedule, at = occurrence
    return f"{at.isoformat()} of {schedule}"


def _ledger(connection: sa.Connection, begin: dt.datetime, end: dt.datetime) -> list[Entry]:
    table = schema.occurrences
    rows = connection.execute(sa.select(table).where(table.c.scheduled_for >= begin, table.c.scheduled_for < end))
    return [Entry((row.schedule_id, row.scheduled_for), row.outcome, row.execution_id, row.recorded_at) for row in rows]


def _runs(connection: sa.Connection, begin: dt.datetime, end: dt.datetime) -> list[Run]:
    table = schema.executions
    wanted = sa.select(table.c.id, table.c.schedule_id, table.c.scheduled_for).where(
        table.c.scheduled_for >= begin, table.c.scheduled_for < end
    )
    return [Run(row.id, (row.schedule_id, row.scheduled_for)) for row in connection.execute(wanted)]


def _steps(rule: Mapping[str, Any], begin: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    anchor = dt.datetime.fromisoformat(rule.get("anchor") or "1970-01-01T00:00:00+00:00")
    every = round(rule["every"] * 1_000_000)
    number = (begin - anchor) // dt.timedelta(microseconds=every)
    while (moment := anchor + dt.timedelta(microseconds=every * number)) < end:
        yield moment
        number += 1


def _clock_times(spec: Mapping[str, Any], begin: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    zone = zoneinfo.ZoneInfo(spec.get("zone", "UTC"))
    names, step = _names(spec["rule"]), _MINUTE if len(_fields(spec["rule"])) < 6 else _SECOND
    dst = spec.get("dst") or (
        {"gap": "skip", "fold": "both"} if _goes_on(spec["rule"]) else {"gap": "shift", "fold": "first"}
    )
    margin = dt.timedelta(0) if zone.key == "UTC" else _LARGEST_CHANGE
    time = begin.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0) - margin
    while time < end.astimezone(zone).replace(tzinfo=None) + margin:
        if names(time):
            yield from _moments(time, zone, dst)
        time += step


def _moments(time: dt.datetime, zone: zoneinfo.ZoneInfo, dst: Mapping[str, str]) -> Iterator[dt.datetime]:
    """When the clock of a zone shows a time: usually once."""
    first, second = (time.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    if first == second:
        yield first
    elif first.astimezone(zone).replace(tzinfo=None, fold=0) != time:
        # It never does. Python takes the offset that was valid before the gap, so this is later by the gap.
        if dst["gap"] == "shift":
            yield first
    else:
        if dst["fold"] in ("first", "both"):
            yield first
        if dst["fold"] in ("second", "both"):
            yield second


def _names(rule: Mapping[str, Any]) -> Names:
    if rule["kind"] == "cron":
        return _cron(_fields(rule))
    at = dt.time.fromisoformat(rule["time"])
    on: Mapping[str, Callable[[dt.datetime], bool]] = {
        "daily": lambda _: True,
        "weekly": lambda time: _WEEKDAYS[time.weekday()] in rule["days"],
        "monthly": lambda time: (
            time.day == (calendar.monthrange(time.year, time.month)[1] if rule["day"] == "last" else rule["day"])
        ),
    }
    return lambda time: time.time() == at and on[rule["kind"]](time)


def _cron(fields: list[str]) -> Names:
    """Plain fields only. A day counts if either of its fields names it, unless one of them is `*`."""
    seconds, minutes, hours = (_numbers(field, 0, 59) for field in (["0", *fields] if len(fields) == 5 else fields)[:3])
    days, months, weekdays = _numbers(fields[-3], 1, 31), _numbers(fields[-2], 1, 12), _numbers(fields[-1], 0, 7)
    either = fields[-3] != "*" and fields[-1] != "*"

    def on(time: dt.datetime) -> bool:
        of_month, of_week = time.day in days, (time.isoweekday() in weekdays or time.isoweekday() % 7 in weekdays)
        return of_month or of_week if either else of_month and of_week

    return lambda time: (
        time.second in seconds and time.minute in minutes and time.hour in hours and time.month in months and on(time)
    )


def _numbers(field: str, lowest: int, highest: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{lowest}-{highest}" if span == "*" else span).partition("-")
        found |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


def _fields(rule: Mapping[str, Any]) -> list[str]:
    return str(rule.get("expression", "")).split()


def _goes_on(rule: Mapping[str, Any]) -> bool:
    """Whether a rule is about every few minutes or hours, and not about times of day."""
    return any(field.startswith("*") for field in _fields(rule)[-5:-3])
