"""Oracle for schedules within a window of time: finds missing, late, extra and wrong occurrences.

Expected times come from `list_nominal_times`, which reads the wall clock at every minute or second of the window and
shares no code with the product; actual ones from the occurrence rows, the executions and the started attempts.
"""

import calendar
import collections
import datetime as dt
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.store.database.database import Database
from jobworker.store.tables import core
from jobworker.store.tables.schedules import occurrences

#: A schedule's id, and the nominal time.
OccurrenceKey = tuple[str, dt.datetime]

#: Predicate of the naive wall-clock times that a rule names.
WallClockPredicate = Callable[[dt.datetime], bool]

_SECOND = dt.timedelta(seconds=1)
_MINUTE = dt.timedelta(minutes=1)

#: Maximum change of a clock within these tests.
_MAX_CLOCK_CHANGE = dt.timedelta(hours=3)

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, slots=True)
class OccurrenceRecord:
    """A row of the occurrences table."""

    occurrence: OccurrenceKey
    outcome: str
    execution: str | None
    recorded_at: dt.datetime


@dataclass(frozen=True, slots=True)
class ScheduledExecution:
    """An execution that a schedule has created."""

    execution: str
    occurrence: OccurrenceKey


@dataclass(frozen=True, slots=True)
class Discrepancies:
    """Discrepancies between expected and actual occurrences, each a sentence with its time."""

    missing: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


#: Result without discrepancies.
NO_DISCREPANCIES = Discrepancies()


def find_discrepancies(
    expected: Mapping[OccurrenceKey, str],
    records: Iterable[OccurrenceRecord],
    executions: Iterable[ScheduledExecution],
    starts: Mapping[tuple[str, int], int] | None = None,
    max_delay: dt.timedelta | None = None,
) -> Discrepancies:
    """Compare the records with the expected outcome of each occurrence.

    `starts`: number of real starts of each (execution, attempt). `max_delay`: longer delays of records are late.
    """
    rows = {entry.occurrence: entry for entry in records}
    all_executions = list(executions)
    return Discrepancies(
        tuple(sorted(_find_missing(expected, rows, all_executions))),
        tuple(sorted(_find_late(rows, max_delay))),
        tuple(
            sorted(
                [
                    *_find_unexpected(expected, rows),
                    *_find_unrecorded_executions(rows, all_executions),
                    *_find_repeated_starts(all_executions, starts or {}),
                ]
            )
        ),
        tuple(sorted(_find_wrong(expected, rows))),
    )


def compare_database(
    database: Database,
    expected: Mapping[OccurrenceKey, str],
    begin: dt.datetime,
    end: dt.datetime,
    starts: Mapping[tuple[str, int], int] | None = None,
    max_delay: dt.timedelta | None = None,
) -> Discrepancies:
    """Find the discrepancies between a database and the expected occurrences in [begin, end)."""
    with database.read() as connection:
        return find_discrepancies(
            expected, _read_records(connection, begin, end), _read_executions(connection, begin, end), starts, max_delay
        )


def list_nominal_times(spec: Mapping[str, Any], begin: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    """Return the moments in [begin, end) that a schedule's rule names, by checking every time of the wall clock."""
    rule = spec["rule"]
    nominal_times = set(
        _generate_interval_times(rule, begin, end)
        if rule["kind"] == "interval"
        else _generate_wall_clock_times(spec, begin, end)
    )
    return sorted(moment for moment in nominal_times if begin <= moment < end)


def _find_missing(
    expected: Mapping[OccurrenceKey, str],
    records: Mapping[OccurrenceKey, OccurrenceRecord],
    executions: Iterable[ScheduledExecution],
) -> Iterator[str]:
    execution_ids = {run.execution for run in executions}
    for occurrence in expected:
        entry = records.get(occurrence)
        if entry is None:
            yield f"{_format_occurrence(occurrence)} has no row"
        elif entry.outcome == "fired" and entry.execution not in execution_ids:
            yield f"{_format_occurrence(occurrence)} has no execution"


def _find_late(records: Mapping[OccurrenceKey, OccurrenceRecord], max_delay: dt.timedelta | None) -> Iterator[str]:
    for occurrence, entry in records.items():
        delay = entry.recorded_at - occurrence[1]
        if max_delay is not None and entry.outcome == "fired" and delay > max_delay:
            yield f"{_format_occurrence(occurrence)} fired {delay.total_seconds():g} s later"


def _find_unexpected(
    expected: Mapping[OccurrenceKey, str], records: Mapping[OccurrenceKey, OccurrenceRecord]
) -> Iterator[str]:
    for occurrence, entry in records.items():
        if occurrence not in expected:
            yield f"{_format_occurrence(occurrence)} is named by no rule, and is {entry.outcome}"


def _find_unrecorded_executions(
    records: Mapping[OccurrenceKey, OccurrenceRecord], executions: Iterable[ScheduledExecution]
) -> Iterator[str]:
    for run in executions:
        entry = records.get(run.occurrence)
        if entry is None or entry.outcome != "fired" or entry.execution != run.execution:
            yield f"{_format_occurrence(run.occurrence)} has execution {run.execution}, which is not in the ledger"


def _find_repeated_starts(
    executions: Iterable[ScheduledExecution], starts: Mapping[tuple[str, int], int]
) -> Iterator[str]:
    begun: collections.Counter[str] = collections.Counter()
    for (execution, _), times in starts.items():
        begun[execution] += times
    for run in executions:
        if begun[run.execution] > 1:
            yield f"{_format_occurrence(run.occurrence)} began {begun[run.execution]} times"


def _find_wrong(
    expected: Mapping[OccurrenceKey, str], records: Mapping[OccurrenceKey, OccurrenceRecord]
) -> Iterator[str]:
    for occurrence, entry in records.items():
        outcome = expected.get(occurrence, entry.outcome)
        if entry.outcome != outcome:
            yield f"{_format_occurrence(occurrence)} is {entry.outcome} instead of {outcome}"
        if entry.recorded_at < occurrence[1]:
            yield f"{_format_occurrence(occurrence)} was recorded before its time"


def _format_occurrence(occurrence: OccurrenceKey) -> str:
    schedule, at = occurrence
    return f"{at.isoformat()} of {schedule}"


def _read_records(connection: sa.Connection, begin: dt.datetime, end: dt.datetime) -> list[OccurrenceRecord]:
    table = occurrences
    rows = connection.execute(sa.select(table).where(table.c.scheduled_for >= begin, table.c.scheduled_for < end))
    return [
        OccurrenceRecord((row.schedule_id, row.scheduled_for), row.outcome, row.execution_id, row.recorded_at)
        for row in rows
    ]


def _read_executions(connection: sa.Connection, begin: dt.datetime, end: dt.datetime) -> list[ScheduledExecution]:
    table = core.executions
    query = sa.select(table.c.id, table.c.schedule_id, table.c.scheduled_for).where(
        table.c.scheduled_for >= begin, table.c.scheduled_for < end
    )
    return [ScheduledExecution(row.id, (row.schedule_id, row.scheduled_for)) for row in connection.execute(query)]


def _generate_interval_times(rule: Mapping[str, Any], begin: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    anchor = dt.datetime.fromisoformat(rule.get("anchor") or "1970-01-01T00:00:00+00:00")
    every = round(rule["every"] * 1_000_000)
    number = (begin - anchor) // dt.timedelta(microseconds=every)
    while (moment := anchor + dt.timedelta(microseconds=every * number)) < end:
        yield moment
        number += 1


def _generate_wall_clock_times(spec: Mapping[str, Any], begin: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    zone = zoneinfo.ZoneInfo(spec.get("zone", "UTC"))
    names, step = _build_predicate(spec["rule"]), _MINUTE if len(_get_cron_fields(spec["rule"])) < 6 else _SECOND
    dst = spec.get("dst") or (
        {"gap": "skip", "fold": "both"} if _is_subdaily(spec["rule"]) else {"gap": "shift", "fold": "first"}
    )
    margin = dt.timedelta(0) if zone.key == "UTC" else _MAX_CLOCK_CHANGE
    time = begin.astimezone(zone).replace(tzinfo=None, second=0, microsecond=0) - margin
    while time < end.astimezone(zone).replace(tzinfo=None) + margin:
        if names(time):
            yield from _resolve_wall_clock(time, zone, dst)
        time += step


def _resolve_wall_clock(time: dt.datetime, zone: zoneinfo.ZoneInfo, dst: Mapping[str, str]) -> Iterator[dt.datetime]:
    """Yield the moments when the clock of a zone shows a time: usually one."""
    first, second = (time.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    if first == second:
        yield first
    elif first.astimezone(zone).replace(tzinfo=None, fold=0) != time:
        # The clock never shows this time. Python uses the offset before the gap, so the moment is later by the gap.
        if dst["gap"] == "shift":
            yield first
    else:
        if dst["fold"] in ("first", "both"):
            yield first
        if dst["fold"] in ("second", "both"):
            yield second


def _build_predicate(rule: Mapping[str, Any]) -> WallClockPredicate:
    if rule["kind"] == "cron":
        return _build_cron_predicate(_get_cron_fields(rule))
    at = dt.time.fromisoformat(rule["time"])
    on: Mapping[str, Callable[[dt.datetime], bool]] = {
        "daily": lambda _: True,
        "weekly": lambda time: _WEEKDAYS[time.weekday()] in rule["days"],
        "monthly": lambda time: (
            time.day == (calendar.monthrange(time.year, time.month)[1] if rule["day"] == "last" else rule["day"])
        ),
    }
    return lambda time: time.time() == at and on[rule["kind"]](time)


def _build_cron_predicate(fields: list[str]) -> WallClockPredicate:
    """Build a predicate of plain cron fields. A day matches if either day field names it, unless one of them is `*`."""
    seconds, minutes, hours = (
        _parse_numbers(field, 0, 59) for field in (["0", *fields] if len(fields) == 5 else fields)[:3]
    )
    days, months, weekdays = (
        _parse_numbers(fields[-3], 1, 31),
        _parse_numbers(fields[-2], 1, 12),
        _parse_numbers(fields[-1], 0, 7),
    )
    either = fields[-3] != "*" and fields[-1] != "*"

    def on(time: dt.datetime) -> bool:
        of_month, of_week = time.day in days, (time.isoweekday() in weekdays or time.isoweekday() % 7 in weekdays)
        return of_month or of_week if either else of_month and of_week

    return lambda time: (
        time.second in seconds and time.minute in minutes and time.hour in hours and time.month in months and on(time)
    )


def _parse_numbers(field: str, lowest: int, highest: int) -> set[int]:
    numbers: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{lowest}-{highest}" if span == "*" else span).partition("-")
        numbers |= set(range(int(first), int(last or first) + 1, int(step or 1)))
    return numbers


def _get_cron_fields(rule: Mapping[str, Any]) -> list[str]:
    return str(rule.get("expression", "")).split()


def _is_subdaily(rule: Mapping[str, Any]) -> bool:
    """Return whether a rule repeats within a day by `*`, and does not name times of day."""
    return any(field.startswith("*") for field in _get_cron_fields(rule)[-5:-3])
