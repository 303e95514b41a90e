"""Simulation of schedules on virtual time, with the production evaluator on a temporary database.

A turn simulates the relay when something is due: it records executions that have ended, evaluates due schedules, and
starts executions that may start. Executions start at once, as if enough workers were free, and run for their assumed
duration. During an outage no turn is taken; executions that run continue.
"""

import contextlib
import datetime as dt
import heapq
import itertools
import math
import re
import tempfile
import zoneinfo
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import sqlalchemy as sa

from jobworker.declare.declarations import Declarations
from jobworker.domain.errors import InvalidInput, ScheduleNotFound
from jobworker.domain.executions.execution import ExecutionState, StateTransition, merge_transition
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import VARIADIC
from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.domain.schedules.schedule import ScheduleOwner
from jobworker.domain.schedules.time_windows import Outage
from jobworker.services import lookup
from jobworker.services.schedules import evaluator, pauses, sync
from jobworker.services.schedules import schedules as editing
from jobworker.services.workflows import resolution
from jobworker.store import jobs, tasks
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation, due_executions, history
from jobworker.store.schedules import due_schedules, schedule_rows, simulation
from jobworker.store.schedules.simulation import SimulatedOccurrenceRow
from jobworker.store.tasks import TaskRow
from jobworker.store.workflows import dependency_rows

#: Maximum number of items of each kind processed per turn.
_BATCH_SIZE = 10_000

_TICK = dt.timedelta(microseconds=1)

#: A time later than all others.
_NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)

_ACTOR = "simulation"

_EXECUTION_ID_PATTERN = re.compile(r"\bexecution ([0-9a-f-]{36})\b")


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """Options of a simulation: period [begin, end), and duration of executions (s), by default and by schedule.

    During an outage nothing is evaluated and nothing starts. The simulation ends after `limit` occurrences. Raises
    `InvalidInput` for a period that does not end after its beginning, and for an invalid duration.
    """

    begin: dt.datetime
    end: dt.datetime
    outages: Sequence[Outage] = ()
    duration: float = 0.0
    durations: Mapping[str, float] = field(default_factory=dict)
    limit: int = 1000

    def __post_init__(self) -> None:
        if self.end <= self.begin:
            raise InvalidInput(
                f"the end, {self.end.isoformat()}, must be later than the beginning, {self.begin.isoformat()}"
            )
        for name, seconds in [("", self.duration), *self.durations.items()]:
            if not (math.isfinite(seconds) and seconds >= 0):
                qualifier = f" of schedule {name}" if name else ""
                raise InvalidInput(f"the duration{qualifier} is {seconds:g}; it must be a number of seconds, 0 or more")


@dataclass(frozen=True, slots=True)
class SimulatedOccurrence:
    """Simulated outcome of an occurrence. All times are in the schedule's zone.

    `settled_at` is the time of the evaluation. `state` is that of the execution (None: no execution); `started_at` and
    `ended_at` are absent (None) if the execution does not start or end.
    """

    schedule: str
    scheduled_for: dt.datetime
    outcome: OccurrenceOutcome
    reason: str | None
    settled_at: dt.datetime
    state: ExecutionState | None
    started_at: dt.datetime | None
    ended_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """Result of a simulation: occurrences by nominal time.

    `unevaluated`: schedules with an occurrence that is due and not evaluated before the end, and its nominal time;
    `stopped_at`: time at which the limit of occurrences was exceeded; `assumed_jobs`: jobs that do not exist.
    """

    occurrences: Sequence[SimulatedOccurrence]
    unevaluated: Mapping[str, dt.datetime]
    stopped_at: dt.datetime | None
    assumed_jobs: Sequence[str] = ()


def simulate_database(
    database: Database, options: SimulationOptions, names: Collection[str] | None = None
) -> SimulationResult:
    """Simulate the schedules of a database; `names` selects some. Raises `ScheduleNotFound`."""
    with _open_temporary_database() as connection:
        with database.read() as source:
            simulation.copy_definitions(source, connection)
        for name in [*(names or ()), *options.durations]:
            editing.find(connection, name)
        simulation.restrict_schedules(connection, names, None)
        return _Simulation(connection, options).run()


def simulate_code(
    declarations: Declarations,
    options: SimulationOptions,
    names: Collection[str] | None = None,
    database: Database | None = None,
) -> SimulationResult:
    """Simulate declared schedules with the jobs and calendars of a database; `names` selects some.

    A missing job (without a database: every job) is assumed to accept all parameters. Raises `InvalidInput` with the
    schedules that cannot be applied, and `ScheduleNotFound`.
    """
    for name in [*(names or ()), *options.durations]:
        if name not in declarations.schedules:
            raise ScheduleNotFound(lookup.describe_undeclared("schedule", name, sorted(declarations.schedules)))
    chosen = _select_declarations(declarations, declarations.schedules if names is None else names)
    with _open_temporary_database() as connection:
        if database is not None:
            with database.read() as source:
                simulation.copy_definitions(source, connection)
        simulation.restrict_schedules(connection, chosen.schedules, None)
        assumed = _create_missing_jobs(
            connection, {declaration.value.job for declaration in chosen.schedules.values()}, options.begin
        )
        _apply_declarations(connection, chosen, options.begin)
        simulation.restrict_schedules(connection, None, ScheduleOwner.CODE)
        return replace(_Simulation(connection, options).run(), assumed_jobs=assumed)


def _select_declarations(declarations: Declarations, names: Collection[str]) -> Declarations:
    """Return the declarations of these schedules and of the calendars that they name."""
    chosen = {name: declared for name, declared in declarations.schedules.items() if name in names}
    needed = {name for declared in chosen.values() for name in declared.value.calendar_names}
    return Declarations(chosen, {name: declared for name, declared in declarations.calendars.items() if name in needed})


def _create_missing_jobs(connection: sa.Connection, job_names: Collection[str], now: dt.datetime) -> list[str]:
    """Create the jobs that do not exist, and return their names."""
    missing = sorted(set(job_names) - jobs.get_many(connection, sorted(job_names)).keys())
    for name in missing:
        tasks.upsert(connection, TaskRow(name, "", (VARIADIC,), {}, _ACTOR, now))
        jobs.upsert(connection, JobDefinition(name, name), JobOwner.API, _ACTOR, now)
    return missing


@contextlib.contextmanager
def _open_temporary_database() -> Iterator[sa.Connection]:
    """Yield a transaction on an empty temporary database with the tables; the database is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="jobworker-simulation-") as folder:
        database = Database(f"sqlite:///{Path(folder) / 'simulated.db'}")
        try:
            with database.write() as connection:
                simulation.create_tables(connection)
                yield connection
        finally:
            database.dispose()


def _apply_declarations(connection: sa.Connection, declarations: Declarations, now: dt.datetime) -> None:
    # `run_at_start` is ignored, because creation of schedules and start of the system are not simulated.
    begun = {
        name: replace(declaration, value=replace(declaration.value, run_at_start=False))
        for name, declaration in declarations.schedules.items()
    }
    changes = sync.apply_in_transaction(connection, replace(declarations, schedules=begun), _ACTOR, now)
    refused = [change for change in changes if change.step is sync.SyncOutcome.REFUSED]
    if refused:
        reasons = (f"{change.kind} {change.name} ({change.place}): {change.reason}" for change in refused)
        raise InvalidInput("; ".join(reasons))


class _Simulation:
    """State of one simulation run."""

    def __init__(self, connection: sa.Connection, options: SimulationOptions) -> None:
        self._connection = connection
        self._question = options
        self._now = options.begin
        #: Running executions: (end, id).
        self._running: list[tuple[dt.datetime, str]] = []
        self._numbers = itertools.count(1)
        simulation.reset_schedules(connection, options.begin - _TICK)
        self._schedules = {row.id: row for row in schedule_rows.list_all(connection)}

    def run(self) -> SimulationResult:
        """Simulate the period and return the result."""
        stopped_at = self._run_turns()
        unevaluated = {} if stopped_at else self._find_unevaluated()
        self._finish_running()
        zones = {row.name: zoneinfo.ZoneInfo(row.schedule.zone) for row in self._schedules.values()}
        rows = list(simulation.list_occurrences(self._connection))
        labels = {row.execution: f"the execution of {row.scheduled_for:%Y-%m-%dT%H:%M:%SZ}" for row in rows}
        occurrences = [_to_simulated_occurrence(row, zones[row.schedule], labels) for row in rows]
        return SimulationResult(occurrences[: self._question.limit], unevaluated, stopped_at)

    def _run_turns(self) -> dt.datetime | None:
        """Take turns until the end of the period; return the time of an earlier stop, or None."""
        while (moment := self._compute_next_turn()) < self._question.end:
            self._now = moment
            if not self._run_turn() and self._compute_next_turn() == self._now:
                simulation.skip_unevaluable(self._connection, self._now)
            if simulation.count_occurrences(self._connection) > self._question.limit:
                return self._now
        return None

    def _find_unevaluated(self) -> dict[str, dt.datetime]:
        """Return the schedules with an occurrence that was due and not evaluated, and its nominal time."""
        rows = schedule_rows.list_all(self._connection)
        return {row.name: row.next_at for row in rows if row.next_at is not None and row.next_at < self._question.end}

    def _finish_running(self) -> None:
        """End the executions that run; no more occurrences become due."""
        while self._running:
            self._now = self._skip_outages(max(self._now, self._running[0][0]))
            self._end_and_start()

    def _compute_next_turn(self) -> dt.datetime:
        """Return the time of the next turn."""
        due = due_schedules.list_due(self._connection, _NEVER, 1)
        moments = [at for _, at in due] + [at for at, _ in self._running[:1]]
        others = due_executions.get_next_due(self._connection), simulation.get_next_pause_end(self._connection)
        earliest = min([*moments, *(moment for moment in others if moment is not None)], default=_NEVER)
        return self._skip_outages(max(self._now, earliest))

    def _skip_outages(self, moment: dt.datetime) -> dt.datetime:
        """Return the first time, at or after this one, that is not in an outage."""
        for outage in sorted(self._question.outages, key=lambda outage: outage.begin):
            if outage.begin <= moment < outage.end:
                moment = outage.end
        return moment

    def _run_turn(self) -> bool:
        """Simulate one turn of the relay; return whether anything changed."""
        ended = self._record_ended()
        due = dict(due_schedules.list_due(self._connection, self._now, _BATCH_SIZE))
        if due:
            evaluator.evaluate_due(self._connection, due, self._now)
        resumed = due_schedules.list_ended_pauses(self._connection, self._now, _BATCH_SIZE)
        for schedule_id in resumed:
            pauses.end_expired_pause(self._connection, schedule_id, self._now)
        advanced = bool(due) and due != dict(due_schedules.list_due(self._connection, self._now, _BATCH_SIZE))
        return self._release_and_start() or ended or advanced or bool(resumed)

    def _end_and_start(self) -> None:
        self._record_ended()
        self._release_and_start()

    def _record_ended(self) -> bool:
        """Record the executions that have ended; return whether there were any."""
        ended: list[StateTransition] = []
        while self._running and self._running[0][0] <= self._now:
            at, execution = heapq.heappop(self._running)
            ended.append(self._build_move(execution, ExecutionState.SUCCEEDED, at))
        self._record_moves(ended)
        return bool(ended)

    def _release_and_start(self) -> bool:
        """Stop executions with a cancel request and start all that may; return whether anything changed."""
        requests = cancellation.list_started_cancel_requests(self._connection, _BATCH_SIZE)
        cancelled = {request.id for request in requests}
        self._running = [entry for entry in self._running if entry[1] not in cancelled]
        heapq.heapify(self._running)
        self._record_moves(
            [self._build_move(execution, ExecutionState.CANCELLED, self._now) for execution in cancelled]
        )
        released = self._release_due()
        started = simulation.list_ready(self._connection)
        self._record_moves([self._build_move(execution, ExecutionState.RUNNING, self._now) for execution, _ in started])
        for execution, schedule in started:
            name = self._schedules[schedule].name if schedule in self._schedules else ""
            takes = self._question.durations.get(name, self._question.duration)
            heapq.heappush(self._running, (self._now + dt.timedelta(seconds=takes), execution))
        return bool(cancelled or released or started)

    def _release_due(self) -> bool:
        """Release executions that are due, and expire those whose deadline has passed."""
        moment = due_executions.get_next_due(self._connection)
        if moment is None or moment > self._now:
            return False
        expired = due_executions.expire_executions(self._connection, self._now, _BATCH_SIZE)
        resolution.resolve_dependents(
            self._connection, dependency_rows.find_ended(self._connection, expired), self._now
        )
        due_executions.release_due(self._connection, self._now, _BATCH_SIZE)
        return True

    def _build_move(self, execution: str, state: ExecutionState, at: dt.datetime) -> StateTransition:
        return StateTransition(execution, 1, state, (next(self._numbers), 0), at, _ACTOR, worker=_ACTOR)

    def _record_moves(self, moves: Sequence[StateTransition]) -> None:
        """Record transitions as a worker would report them, and resolve the dependents of ended executions."""
        if not moves:
            return
        rows = history.get_many(self._connection, [move.execution for move in moves])
        history.update_merged_executions(
            self._connection, {move.execution: merge_transition(rows[move.execution].merged, move) for move in moves}
        )
        ended = [move.execution for move in moves if move.state is not ExecutionState.RUNNING]
        if ended:
            resolution.resolve_dependents(
                self._connection, dependency_rows.find_ended(self._connection, ended), self._now
            )


def _to_simulated_occurrence(
    row: SimulatedOccurrenceRow, zone: zoneinfo.ZoneInfo, execution_labels: Mapping[str | None, str]
) -> SimulatedOccurrence:
    def local(moment: dt.datetime | None) -> dt.datetime | None:
        return moment.astimezone(zone) if moment else None

    # Ids of simulated executions mean nothing to a reader; replace them with the nominal time.
    reason = (
        _EXECUTION_ID_PATTERN.sub(lambda match: execution_labels.get(match[1], match[0]), row.reason)
        if row.reason
        else None
    )
    return SimulatedOccurrence(
        schedule=row.schedule,
        scheduled_for=row.scheduled_for.astimezone(zone),
        outcome=OccurrenceOutcome(row.outcome),
        reason=reason,
        settled_at=row.recorded_at.astimezone(zone),
        state=row.state,
        started_at=local(row.started_at),
        ended_at=local(row.finished_at),
    )
