"""Persistence of evaluated occurrences: their rows, executions and dependencies, and cancellation of replaced ones."""

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from jobworker.domain.errors import UniqueKeyConflict
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.schedules.evaluation import Decision, OccurrenceOutcome, UnfinishedRuns
from jobworker.domain.schedules.schedule import OverlapPolicy
from jobworker.domain.workflows.dependency import Dependency, RequiredOutcome
from jobworker.services.schedules import execution_factory, failure_counter
from jobworker.services.schedules.compiler import CompiledSchedule
from jobworker.services.submissions import preparation, uniqueness
from jobworker.services.submissions.preparation import JobCatalog, PreparedExecution
from jobworker.services.workflows import dependency_checks, resolution
from jobworker.store.executions import cancellation, executions
from jobworker.store.executions.executions import NewExecution
from jobworker.store.schedules import due_schedules, occurrence_rows
from jobworker.store.schedules.due_schedules import DueSchedule
from jobworker.store.schedules.occurrence_rows import OccurrenceRow
from jobworker.store.workflows import dependency_rows
from jobworker.store.workflows.dependency_rows import ResolvedExecution

#: Maximum number of the oldest unfinished executions (which run) and of the latest ones (which wait as well) that an
#: execution depends on: by the latest it waits for all of them, unless these are cancelled.
_MAX_OLDEST_DEPENDENCIES = _MAX_LATEST_DEPENDENCIES = 10


@dataclass(frozen=True, slots=True)
class UnfinishedExecutions:
    """Unfinished executions of a schedule, the oldest first, and whether any of them waits for the others."""

    ids: Sequence[str] = ()
    has_waiting: bool = False

    @property
    def unfinished_runs(self) -> UnfinishedRuns:
        """The unfinished executions in the form that the overlap policy needs."""
        return UnfinishedRuns(self.ids[0] if self.ids else None, self.has_waiting)


@dataclass(frozen=True, slots=True)
class EvaluatedSchedule:
    """A schedule, and the decisions about its occurrences."""

    row: DueSchedule
    compiled: CompiledSchedule
    decisions: Sequence[Decision]
    unfinished: UnfinishedExecutions = UnfinishedExecutions()


@dataclass(frozen=True, slots=True)
class OccurrenceResult:
    """The decision about an occurrence, and its execution, if any."""

    decision: Decision
    prepared: PreparedExecution | None = None
    #: Reason why the execution cannot run.
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ScheduleResult:
    """The recorded occurrences of one schedule."""

    occurrence_results: Sequence[OccurrenceResult]

    @property
    def prepared(self) -> Sequence[PreparedExecution]:
        """The executions of the occurrences that fired."""
        return [result.prepared for result in self.occurrence_results if result.prepared is not None]

    @property
    def exhausted(self) -> bool:
        """True if the last occurrence exhausted the schedule."""
        return (
            bool(self.occurrence_results)
            and self.occurrence_results[-1].decision.outcome is OccurrenceOutcome.EXHAUSTED
        )


def load_unfinished(connection: sa.Connection, row: DueSchedule, overlap: OverlapPolicy) -> UnfinishedExecutions:
    """Return the unfinished executions, as far as the overlap policy needs them."""
    if row.oldest is None or overlap in (OverlapPolicy.ALLOW, OverlapPolicy.SKIP):
        return UnfinishedExecutions([row.oldest] if row.oldest else [])
    unfinished = due_schedules.list_unfinished_executions(connection, row.id)
    return UnfinishedExecutions(
        [execution_id for execution_id, _ in unfinished],
        any(state is ExecutionState.WAITING for _, state in unfinished),
    )


def record_results(
    connection: sa.Connection,
    evaluated: Sequence[EvaluatedSchedule],
    catalog: JobCatalog,
    now: dt.datetime,
    overwrite: bool = False,
) -> list[ScheduleResult]:
    """Record decisions in bulk, and return the result of each schedule. `overwrite`: update existing occurrences."""
    keys: dict[str, str] = {}
    results = [
        ScheduleResult(_build_occurrence_results(connection, schedule, catalog, keys, now)) for schedule in evaluated
    ]
    rows = [
        row
        for schedule, done in zip(evaluated, results, strict=True)
        for row in _build_rows(schedule.row.id, done, now)
    ]
    if overwrite:
        occurrence_rows.update(connection, rows)
    elif refused := occurrence_rows.insert(connection, rows):
        results = [
            ScheduleResult([_remove_refused(result, refused) for result in done.occurrence_results]) for done in results
        ]
    _insert_executions(connection, evaluated, results, now)
    _fail_unrunnable(connection, results, now)
    _cancel_replaced(connection, evaluated, now)
    return results


def _build_occurrence_results(
    connection: sa.Connection,
    schedule: EvaluatedSchedule,
    catalog: JobCatalog,
    acquired_keys: dict[str, str],
    now: dt.datetime,
) -> list[OccurrenceResult]:
    """Build the executions of the occurrences that fire, in order. `acquired_keys`: execution ids by unique key."""
    entries: list[OccurrenceResult] = []
    ids = list(schedule.unfinished.ids)
    for decision in schedule.decisions:
        if decision.outcome is not OccurrenceOutcome.FIRED:
            entries.append(OccurrenceResult(decision))
            continue
        template = execution_factory.get_template(schedule.compiled, catalog, now)
        execution = execution_factory.build_occurrence_execution(
            schedule.row, schedule.compiled, template, decision.nominal, now
        )
        taken = _find_duplicate(connection, execution, catalog, acquired_keys, now) if execution.unique_key else None
        if taken is not None:
            entries.append(
                OccurrenceResult(replace(decision, outcome=OccurrenceOutcome.SKIPPED_DUPLICATE, reason=taken))
            )
            continue
        waits = decision.waits and template.problem is None
        before = [Dependency(parent_id, RequiredOutcome.ANY) for parent_id in _limit_dependencies(ids)] if waits else []
        entries.append(
            OccurrenceResult(
                decision, preparation.add_dependencies(PreparedExecution(execution), before), template.problem
            )
        )
        ids.append(execution.id)
    return entries


def _limit_dependencies(ids: Sequence[str]) -> Sequence[str]:
    return (
        ids
        if len(ids) <= _MAX_OLDEST_DEPENDENCIES + _MAX_LATEST_DEPENDENCIES
        else [*ids[:_MAX_OLDEST_DEPENDENCIES], *ids[-_MAX_LATEST_DEPENDENCIES:]]
    )


def _find_duplicate(
    connection: sa.Connection,
    execution: NewExecution,
    catalog: JobCatalog,
    acquired_keys: dict[str, str],
    now: dt.datetime,
) -> str | None:
    """Return the reason why an execution is a duplicate, or None.

    `acquired_keys` contains the unique keys of executions that are not inserted yet; the key is added.
    """
    first = acquired_keys.setdefault(execution.unique_key or "", execution.id)
    if first != execution.id:
        return f"execution {first} has its unique key"
    try:
        decided = uniqueness.acquire_keys(connection, [execution], catalog.get_unique_policies(), now)
    except UniqueKeyConflict as error:
        return error.detail
    resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, decided.cancelled), now)
    [holder] = decided.ids
    return f"execution {holder} has its unique key" if holder != execution.id else None


def _build_rows(schedule_id: str, schedule_result: ScheduleResult, now: dt.datetime) -> Iterator[OccurrenceRow]:
    for entry in schedule_result.occurrence_results:
        decision = entry.decision
        execution_id = entry.prepared.row.id if entry.prepared else None
        yield OccurrenceRow(schedule_id, decision.nominal, decision.outcome.value, decision.reason, execution_id, now)


def _remove_refused(entry: OccurrenceResult, refused: Collection[str]) -> OccurrenceResult:
    """Remove the refused executions, whose occurrences are recorded with another one, and dependencies on them."""
    if entry.prepared is None or entry.prepared.row.id in refused:
        return replace(entry, prepared=None)
    depends_on = [dependency for dependency in entry.prepared.depends_on if dependency.parent not in refused]
    if len(depends_on) == len(entry.prepared.depends_on):
        return entry
    changes = {"waiting_for": len(depends_on)} if depends_on else {"waiting_for": None, "state": ExecutionState.QUEUED}
    row = replace(entry.prepared.row, **changes)
    return replace(entry, prepared=replace(entry.prepared, row=row, depends_on=depends_on))


def _insert_executions(
    connection: sa.Connection,
    evaluated: Sequence[EvaluatedSchedule],
    results: Sequence[ScheduleResult],
    now: dt.datetime,
) -> None:
    """Insert the executions and their dependencies."""
    prepared = [execution for done in results for execution in done.prepared]
    waiting = [execution for execution in prepared if execution.depends_on]
    ended = dependency_checks.check_parents(connection, prepared) if waiting else {}
    actors = [
        f"schedule:{schedule.row.name}"
        for schedule, done in zip(evaluated, results, strict=True)
        for _ in done.prepared
    ]
    executions.insert_for_actors(connection, [execution.row for execution in prepared], actors, now)
    dependency_checks.insert(connection, waiting)
    if ended:
        resolution.resolve_new_dependents(connection, [execution.row.id for execution in waiting], ended, now)


def _fail_unrunnable(connection: sa.Connection, results: Sequence[ScheduleResult], now: dt.datetime) -> None:
    """Fail executions whose parameters the task rejects, so that they are listed with all other failures."""
    refused = [
        (entry.prepared.row, entry.problem) for done in results for entry in done.occurrence_results if entry.prepared
    ]
    failed = [_build_failure(row, problem) for row, problem in refused if problem is not None]
    if not failed:
        return
    dependency_rows.update_resolved(connection, failed, now)
    resolution.resolve_dependents(
        connection, dependency_rows.find_ended(connection, [execution.id for execution in failed]), now
    )
    ended = [
        failure_counter.EndedExecution(row.schedule_id or "", row.id, ExecutionState.FAILED)
        for row, problem in refused
        if problem
    ]
    failure_counter.count_failures(connection, ended, now)


def _build_failure(row: NewExecution, problem: str) -> ResolvedExecution:
    error = {"type": "InvalidParameters", "message": problem, "traceback": None}
    return ResolvedExecution(row.id, ExecutionState.FAILED, problem, row.due_at, row.parameters, row.expires_at, error)


def _cancel_replaced(connection: sa.Connection, evaluated: Sequence[EvaluatedSchedule], now: dt.datetime) -> None:
    """Cancel the executions that an occurrence replaces."""
    for schedule in evaluated:
        replacing = next((decision for decision in schedule.decisions if decision.cancels), None)
        if replacing is None:
            continue
        actor = f"schedule:{schedule.row.name}"
        reason = f"the occurrence of {replacing.nominal.isoformat(timespec='seconds')} takes its place"
        ended = cancellation.cancel_waiting(connection, schedule.unfinished.ids, actor, reason, now)
        cancellation.request_cancel(connection, schedule.unfinished.ids, actor, now)
        resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, ended), now)
