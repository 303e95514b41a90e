"""Evaluation of schedules: records the outcome of each due occurrence, and creates the executions of those that fire.

Many schedules are evaluated in one transaction, with shared lookups and bulk writes. Evaluation is idempotent: each
call evaluates everything that became due since the last one, however often it is triggered.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import sqlalchemy as sa

from jobworker.domain.errors import Conflict
from jobworker.domain.schedules import evaluation
from jobworker.domain.schedules.evaluation import Decision, EvaluationContext, OccurrenceOutcome, UnfinishedRuns
from jobworker.domain.schedules.schedule import OverlapPolicy, ScheduleOwner, ScheduleState
from jobworker.domain.schedules.state import has_reached_max_runs
from jobworker.domain.schedules.timetable import find_next_time, iterate_occurrences
from jobworker.services.schedules import compiler, execution_factory, occurrence_writer
from jobworker.services.schedules.compiler import CompiledSchedule
from jobworker.services.schedules.occurrence_writer import EvaluatedSchedule, OccurrenceResult, ScheduleResult
from jobworker.services.submissions import preparation
from jobworker.services.submissions.preparation import JobCatalog
from jobworker.store.schedules import due_schedules, schedule_rows
from jobworker.store.schedules.due_schedules import DueSchedule, ScheduleProgress
from jobworker.store.schedules.schedule_rows import ScheduleRow

#: Maximum number of occurrences of one schedule evaluated at a time; the next turn evaluates the others.
_BATCH_SIZE = 1000

#: Maximum number of batches evaluated before a change of a schedule, because other writers wait for the transaction.
_MAX_BATCHES = 100

#: Maximum time that an occurrence reported as due may be ahead of the clock, because clocks of hosts differ.
_MAX_CLOCK_SKEW = dt.timedelta(seconds=60)

_TICK = dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """Number of executions created, and the schedules with more due occurrences (id → end of the due period)."""

    count: int = 0
    unfinished: Mapping[str, dt.datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _DueSchedule:
    """A schedule under evaluation: its due times, and the first nominal time after them."""

    row: DueSchedule
    compiled: CompiledSchedule
    horizon: dt.datetime
    due_times: Sequence[dt.datetime]
    next_time: dt.datetime | None

    @property
    def has_more(self) -> bool:
        """True if more occurrences are due than `due_times` contains."""
        return self.next_time is not None and self.next_time <= self.horizon

    def iterate_remaining(self) -> Iterator[dt.datetime]:
        """Iterate over the due times that are not evaluated in this turn."""
        if self.next_time is None or not self.has_more:
            return iter(())
        return chain(
            [self.next_time], iterate_occurrences(self.compiled.timetable, self.next_time, self.horizon + _TICK)
        )


def evaluate_due(connection: sa.Connection, due: Mapping[str, dt.datetime], now: dt.datetime) -> EvaluationSummary:
    """Evaluate schedules (id → reported due time) up to now, or up to the due time if it is slightly later."""
    rows = due_schedules.get_many(connection, sorted(due))
    compiled_schedules = compiler.compile_schedules(connection, rows)
    turns = []
    for row in rows:
        horizon = max(now, min(due[row.id], now + _MAX_CLOCK_SKEW))
        turn = (
            _find_due(row, compiled_schedules[row.id], horizon)
            if row.id in compiled_schedules and row.next_at
            else None
        )
        turns += [turn] if turn else []
    catalog = preparation.load_catalog(connection, {turn.row.job for turn in turns})
    results = occurrence_writer.record_results(
        connection, [_evaluate(connection, turn, catalog, now) for turn in turns], catalog, now
    )
    due_schedules.update_progress(connection, map(_compute_progress, turns, results))
    more = {turn.row.id: turn.horizon for turn in turns if turn.has_more}
    for turn, done in zip(turns, results, strict=True):
        if done.exhausted:
            more.pop(turn.row.id, None)
    return EvaluationSummary(sum(len(done.prepared) for done in results), more)


def evaluate_now(connection: sa.Connection, row: ScheduleRow, now: dt.datetime) -> ScheduleRow:
    """Evaluate everything of a schedule that is due by now, before it is changed, and return its row after that.

    Raises `Conflict` if too many occurrences are due for one transaction.
    """
    more: Mapping[str, dt.datetime] = {row.id: now}
    for _ in range(_MAX_BATCHES):
        more = evaluate_due(connection, more, now).unfinished
        if not more:
            evaluated_row = schedule_rows.get_by_id(connection, row.id)
            assert evaluated_row is not None, "it is locked"
            return evaluated_row
    raise Conflict(
        f"more than {_MAX_BATCHES * _BATCH_SIZE} occurrences of schedule {row.name} are due and not evaluated yet; "
        "the relay evaluates them in batches: try again later"
    )


def evaluate_job_schedule(connection: sa.Connection, job: str, now: dt.datetime) -> None:
    """Evaluate the due occurrences of the schedule in a job definition, before the definition is changed or removed."""
    row = schedule_rows.get_by_name(connection, job)
    if row is not None and row.owner is ScheduleOwner.JOB:
        evaluate_now(connection, row, now)


def fire_now(
    connection: sa.Connection, row: ScheduleRow, now: dt.datetime, actor: str, overlap: OverlapPolicy | None = None
) -> Decision:
    """Fire an extra occurrence, due now, requested by `actor`; pauses and calendars do not apply.

    `overlap` None: the policy of the schedule. Raises `Conflict` if the schedule is retired or cannot be read,
    `JobDisabled`, and `JobRemoved`.
    """
    if row.state is ScheduleState.RETIRED:
        message = f"schedule {row.name} is retired, code declares it no more: it cannot be fired; submit job {row.job}"
        raise Conflict(message)
    [due], plan = (
        due_schedules.get_many(connection, [row.id]),
        compiler.compile_schedules(connection, [row]).get(row.id),
    )
    if plan is None:
        raise Conflict(f"schedule {row.name} cannot be read; change it first")
    catalog = preparation.load_catalog(connection, [row.job])
    execution_factory.check_runnable(catalog, row.job, f"schedule {row.name} cannot be fired")
    situation = EvaluationContext(now, overlap=overlap or plan.schedule.overlap)
    return _fire_extra(connection, due, plan, catalog, situation, f"fired by hand by {actor}").decision


def fire_at_start(connection: sa.Connection, ids: Sequence[str], now: dt.datetime, reason: str) -> int:
    """Fire an extra occurrence, due now, of the schedules with `run_at_start`; return the number that fired."""
    rows = due_schedules.get_many(connection, sorted(ids))
    compiled_schedules = compiler.compile_schedules(connection, rows)
    catalog = preparation.load_catalog(connection, {row.job for row in rows})
    count = 0
    for row in rows:
        plan = compiled_schedules.get(row.id)
        if plan is not None and plan.schedule.run_at_start and _can_fire_at_start(row, plan, now):
            situation = execution_factory.build_evaluation_context(row, plan, catalog, UnfinishedRuns(), now)
            count += _fire_extra(connection, row, plan, catalog, situation, reason).prepared is not None
    return count


def record_extra_occurrences(
    connection: sa.Connection,
    schedule: EvaluatedSchedule,
    catalog: JobCatalog,
    now: dt.datetime,
    overwrite: bool = False,
) -> ScheduleResult:
    """Record occurrences other than the next ones of the rule; `overwrite`: update their existing rows."""
    [result] = occurrence_writer.record_results(connection, [schedule], catalog, now, overwrite)
    row = schedule.row
    runs = row.runs + len(result.prepared)
    state = _compute_state(row, schedule.compiled, runs, row.next_at)
    due_schedules.update_progress(connection, [ScheduleProgress(row.id, row.settled_until, row.next_at, runs, state)])
    return result


def _fire_extra(
    connection: sa.Connection,
    row: DueSchedule,
    compiled: CompiledSchedule,
    catalog: JobCatalog,
    context: EvaluationContext,
    reason: str,
) -> OccurrenceResult:
    """Evaluate and record an occurrence that is due now."""
    unfinished = occurrence_writer.load_unfinished(connection, row, context.overlap)
    [decision] = evaluation.evaluate([context.now], replace(context, unfinished=unfinished.unfinished_runs))
    if decision.outcome is OccurrenceOutcome.FIRED:
        decision = replace(decision, reason=reason)
    [entry] = record_extra_occurrences(
        connection, EvaluatedSchedule(row, compiled, [decision], unfinished), catalog, context.now
    ).occurrence_results
    return entry


def _find_due(row: DueSchedule, compiled: CompiledSchedule, horizon: dt.datetime) -> _DueSchedule | None:
    """Compute the occurrences of a schedule that are due by `horizon`; None if that fails (the error is logged)."""
    try:
        if not is_in_force(row):
            return _DueSchedule(row, compiled, horizon, (), find_next_time(compiled.timetable, horizon))
        due: list[dt.datetime] = []
        following = row.next_at
        if following is not None and following <= row.settled_until:  # `next_at` is outdated: compute it again.
            following = find_next_time(compiled.timetable, row.settled_until)
        while following is not None and following <= horizon and len(due) < _BATCH_SIZE:
            due.append(following)
            following = find_next_time(compiled.timetable, following)
    except compiler.EVALUATION_ERRORS as error:
        compiler.report_unreadable(row, error)
        return None
    return _DueSchedule(row, compiled, horizon, due, following)


def is_in_force(row: DueSchedule) -> bool:
    """Return whether the occurrences of a schedule are recorded: it is enabled and not retired."""
    return row.enabled and row.state != ScheduleState.RETIRED


def _can_fire_at_start(row: DueSchedule, compiled: CompiledSchedule, now: dt.datetime) -> bool:
    """Return whether a schedule may fire an extra occurrence at the start: in force, in bounds and not exhausted."""
    if (
        not is_in_force(row)
        or row.state == ScheduleState.EXHAUSTED
        or not execution_factory.is_in_bounds(compiled.timetable, now)
    ):
        return False
    # `settled_until` in the future means that the initial delay has not elapsed; otherwise it is clock skew.
    return not compiled.schedule.initial_delay or now >= row.settled_until


def _evaluate(
    connection: sa.Connection, due_schedule: _DueSchedule, catalog: JobCatalog, now: dt.datetime
) -> EvaluatedSchedule:
    """Decide the outcomes of the due occurrences."""
    row, plan = due_schedule.row, due_schedule.compiled
    if not due_schedule.due_times:
        return EvaluatedSchedule(row, plan, [])
    unfinished = occurrence_writer.load_unfinished(connection, row, plan.schedule.overlap)
    situation = execution_factory.build_evaluation_context(row, plan, catalog, unfinished.unfinished_runs, now)
    return EvaluatedSchedule(
        row, plan, evaluation.evaluate(due_schedule.due_times, situation, due_schedule.iterate_remaining()), unfinished
    )


def _compute_progress(due_schedule: _DueSchedule, result: ScheduleResult) -> ScheduleProgress:
    """Compute the progress of a schedule after its occurrences were recorded."""
    row = due_schedule.row
    if not is_in_force(row):
        return ScheduleProgress(row.id, due_schedule.horizon, due_schedule.next_time, row.runs, row.state)
    until = max(row.settled_until, due_schedule.due_times[-1]) if due_schedule.due_times else row.settled_until
    following = None if result.exhausted else due_schedule.next_time
    runs = row.runs + len(result.prepared)
    return ScheduleProgress(row.id, until, following, runs, _compute_state(row, due_schedule.compiled, runs, following))


def _compute_state(row: DueSchedule, compiled: CompiledSchedule, runs: int, following: dt.datetime | None) -> str:
    """Return the state of a schedule: exhausted after its last run, even if one more occurrence will record that.

    A retired schedule stays retired, even if a backfill or the end of a pause adds executions.
    """
    if row.state == ScheduleState.RETIRED:
        return row.state
    over = following is None or has_reached_max_runs(compiled.schedule, runs)
    return ScheduleState.EXHAUSTED.value if over else row.state
