"""Resolution of dependents, in the transaction that ends executions.

Code that ends executions calls `resolve_dependents` with them. First the triggered jobs start. Then the dependents are
resolved in rounds: each is released, or ends as its dependency defines, and the next round resolves the dependents of
those that ended. Last, batches are completed whose last execution has ended.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
import structlog

from jobworker.domain.errors import InvalidParameters, UniqueKeyConflict
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import limits
from jobworker.domain.jobs.limits import ExecutionKeys
from jobworker.domain.json import json_values
from jobworker.domain.workflows import result_references
from jobworker.domain.workflows.dependency import ParentExecution
from jobworker.domain.workflows.result_references import UnresolvedParameter
from jobworker.services.submissions import preparation, uniqueness
from jobworker.services.workflows import batch_completion, resolved_executions, triggers
from jobworker.services.workflows.resolved_executions import DependencyOutcome
from jobworker.store import jobs, tasks
from jobworker.store.database.database import UNAVAILABLE, describe_error
from jobworker.store.workflows import dependency_rows
from jobworker.store.workflows.dependency_rows import DependencyEdge, ResolvedExecution, ResultSource, WaitingExecution

#: Maximum number of dependencies per round, and of rounds per transaction, because other writers wait.
_WAVE_SIZE, _MAX_WAVES = 200, 50

#: Limits of one transaction (slightly exceeded): dependencies; and bytes of the parameters of waiting executions, as
#: well as bytes of the results that these refer to.
_MAX_EDGES, _MAX_BYTES = 4000, 2 * 1024 * 1024

#: Number of executions whose parameters are read at a time, and of results that are read and held at a time.
_LOCK_BATCH_SIZE, _RESULT_BATCH_SIZE = 40, 64

#: Maximum length of the reason why an execution could not be released (characters).
_MAX_REASON_LENGTH = 500

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ResolutionResult:
    """Number of executions released, and the parents whose dependents are unresolved: pass these to the next call."""

    released_count: int
    unfinished: Sequence[ParentExecution]


@dataclass(slots=True)
class _Budget:
    """Remaining part of the limits of one transaction."""

    edges: int = field(default_factory=lambda: _MAX_EDGES)
    parameters: int = field(default_factory=lambda: _MAX_BYTES)
    results: int = field(default_factory=lambda: _MAX_BYTES)

    @property
    def is_spent(self) -> bool:
        return min(self.edges, self.parameters, self.results) <= 0


@dataclass(slots=True)
class _RoundResult:
    """Result of one round of resolution."""

    released_count: int = 0
    ended: list[ParentExecution] = field(default_factory=list)
    unfinished: list[ParentExecution] = field(default_factory=list)
    postponed: bool = False


@dataclass(slots=True)
class _ReadyExecutions:
    """New states of executions whose dependencies are met, and replaced executions; postponed ones are unchanged."""

    changed: list[ResolvedExecution] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    postponed: set[str] = field(default_factory=set)


class _ParentResults:
    """Results of parents, read in small batches and only when a parameter refers to them."""

    def __init__(self, connection: sa.Connection, ids: Iterable[str], budget: _Budget) -> None:
        self._connection = connection
        self._ids = list(dict.fromkeys(ids))
        self._places = {execution_id: place for place, execution_id in enumerate(self._ids)}
        self._budget = budget
        self._held: dict[str, Any] = {}

    def get(self, execution_id: str) -> Any:
        if execution_id not in self._held:
            place = self._places[execution_id]
            self._held = dependency_rows.get_results(self._connection, self._ids[place : place + _RESULT_BATCH_SIZE])
            self._budget.results -= sum(_measure_size(result) for result in self._held.values())
        return self._held[execution_id]


@dataclass(frozen=True, slots=True)
class _ReferenceSources:
    """Results to which one execution may refer, by all names that its parameters may use."""

    ids: Mapping[str, str]
    results: _ParentResults

    def __getitem__(self, name: str) -> Any:
        return self.results.get(self.ids[name])


def resolve_dependents(
    connection: sa.Connection,
    ended: Sequence[ParentExecution],
    now: dt.datetime,
    unfinished: Sequence[ParentExecution] = (),
) -> ResolutionResult:
    """Resolve the dependents of ended executions. `unfinished` is the remainder of an earlier call."""
    triggers.start_triggered_jobs(connection, ended, now)
    everything, queue, budget = list(ended), [*unfinished, *ended], _Budget()
    count = waves = 0
    while queue and waves < _MAX_WAVES and not budget.is_spent:
        wave = _run_round(connection, queue, now, budget)
        triggers.start_triggered_jobs(connection, wave.ended, now)
        everything += wave.ended
        queue = [*wave.unfinished, *wave.ended]
        count, waves = count + wave.released_count, waves + 1
    complete = {parent.batch_id for parent in everything if parent.batch_id}
    return ResolutionResult(count + batch_completion.complete_batches(connection, complete, now), queue)


def resolve_new_dependents(
    connection: sa.Connection, ids: Sequence[str], ended: Mapping[str, ParentExecution], now: dt.datetime
) -> None:
    """Resolve those dependencies of new executions whose parents had ended before the submission."""
    edges = [
        edge for edge in dependency_rows.list_unresolved_by_child(connection, ids) if edge.dependency.parent in ended
    ]
    resolve_dependents(connection, _resolve_edges(connection, edges, ended, now, _Budget()).ended, now)


def resolve_missed(
    connection: sa.Connection, ended: Sequence[ParentExecution], complete: Sequence[str], now: dt.datetime
) -> ResolutionResult:
    """Resolve the dependents of executions, and complete batches, that were missed when they ended."""
    released = resolve_dependents(connection, (), now, unfinished=ended)
    batch_completion.complete_batches(connection, complete, now)
    return released


def _run_round(
    connection: sa.Connection, parents: Sequence[ParentExecution], now: dt.datetime, budget: _Budget
) -> _RoundResult:
    edges = dependency_rows.list_unresolved(connection, [parent.id for parent in parents], _WAVE_SIZE)
    if not edges:
        return _RoundResult()
    budget.edges -= len(edges)
    wave = _resolve_edges(connection, edges, {parent.id: parent for parent in parents}, now, budget)
    if wave.postponed or len(edges) == _WAVE_SIZE:
        wave.unfinished = list(parents)
    return wave


def _resolve_edges(
    connection: sa.Connection,
    edges: Sequence[DependencyEdge],
    parents: Mapping[str, ParentExecution],
    now: dt.datetime,
    budget: _Budget,
) -> _RoundResult:
    """Resolve dependencies on ended executions. An error of one dependent fails this dependent only."""
    mine: dict[str, list[DependencyOutcome]] = {}
    for edge in edges:
        verdict = edge.dependency.resolve(parents[edge.dependency.parent].state)
        mine.setdefault(edge.execution_id, []).append((edge, verdict))
    try:
        with connection.begin_nested():
            return _resolve_all(connection, mine, parents, now, budget)
    except UNAVAILABLE:
        raise  # The dependents are not the cause.
    except Exception as error:  # noqa: BLE001  it is logged; a traceback would show parameters
        logger.error("release_refused", executions=len(mine), error=describe_error(error))
    wave, budget = _RoundResult(), _Budget()
    for key, outcomes in sorted(mine.items()):
        if budget.is_spent:
            wave.postponed = True
            break
        alone = _resolve_one(connection, key, outcomes, parents, now, budget)
        wave.released_count += alone.released_count
        wave.ended += alone.ended
    return wave


def _resolve_one(
    connection: sa.Connection,
    key: str,
    outcomes: list[DependencyOutcome],
    parents: Mapping[str, ParentExecution],
    now: dt.datetime,
    budget: _Budget,
) -> _RoundResult:
    """Resolve the dependencies of one execution; the execution fails if its new state cannot be written."""
    try:
        with connection.begin_nested():
            return _resolve_all(connection, {key: outcomes}, parents, now, budget)
    except UNAVAILABLE:
        raise
    except Exception as error:  # noqa: BLE001  it was logged above; the execution's reason contains it
        dependency_rows.mark_resolved(connection, outcomes, now)
        rows = dependency_rows.lock_waiting(connection, [key])
        why = json_values.sanitize_text(f"its outcome cannot be recorded: {describe_error(error)}")[:_MAX_REASON_LENGTH]
        changed = [resolved_executions.build_failed(row, "ReleaseRefused", why) for row in rows.values()]
        dependency_rows.update_resolved(connection, changed, now)
        return _RoundResult(0, [resolved_executions.to_parent(rows[change.id], change) for change in changed])


def _resolve_all(
    connection: sa.Connection,
    outcomes_by_execution: Mapping[str, list[DependencyOutcome]],
    parents: Mapping[str, ParentExecution],
    now: dt.datetime,
    budget: _Budget,
) -> _RoundResult:
    waiting, postponed = _lock_waiting(connection, sorted(outcomes_by_execution), budget)
    against = {
        key: obstacle for key in waiting if (obstacle := resolved_executions.find_obstacle(outcomes_by_execution[key]))
    }
    counts = {
        key: row.waiting_for - len(outcomes_by_execution[key]) for key, row in waiting.items() if key not in against
    }
    dependency_rows.update_waiting_for(connection, [(key, number) for key, number in counts.items() if number > 0])
    free = [waiting[key] for key, number in counts.items() if number <= 0]
    freed = _release_ready(connection, free, now, budget)
    postponed |= freed.postponed
    dependency_rows.mark_resolved(
        connection,
        [outcome for key, outcomes in outcomes_by_execution.items() if key not in postponed for outcome in outcomes],
        now,
    )
    changed = [
        *(resolved_executions.build_stopped(waiting[key], outcome, parents) for key, outcome in against.items()),
        *freed.changed,
    ]
    dependency_rows.update_resolved(connection, changed, now)
    ended = [resolved_executions.to_parent(waiting[change.id], change) for change in changed if change.is_finished]
    ended += dependency_rows.find_ended(connection, freed.replaced)
    return _RoundResult(len(changed) - sum(change.is_finished for change in changed), ended, postponed=bool(postponed))


def _lock_waiting(
    connection: sa.Connection, keys: Sequence[str], budget: _Budget
) -> tuple[dict[str, WaitingExecution], set[str]]:
    """Return those of these executions that are Waiting, and the ids that are postponed to the next transaction.

    An execution that was cancelled in the meantime is not Waiting any more, and stays as it is.
    """
    waiting: dict[str, WaitingExecution] = {}
    for start in range(0, len(keys), _LOCK_BATCH_SIZE):
        if budget.parameters <= 0:
            return waiting, set(keys[start:])
        rows = dependency_rows.lock_waiting(connection, keys[start : start + _LOCK_BATCH_SIZE])
        budget.parameters -= sum(_measure_size(row.parameters) for row in rows.values())
        waiting |= rows
    return waiting, set()


def _measure_size(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except TypeError:
        return 0  # The value is not JSON; the code that uses it reports that.


def _release_ready(
    connection: sa.Connection, rows: Sequence[WaitingExecution], now: dt.datetime, budget: _Budget
) -> _ReadyExecutions:
    """Release executions whose dependencies are met, or end them if their resolved parameters are not accepted."""
    referred = {row.id: result_references.list_sources(row.parameters) for row in rows}
    late = [row for row in rows if row.triggered_by or referred[row.id]]
    sources = _load_sources(connection, {row.id: referred[row.id] for row in late}, budget)
    accepted = tasks.get_many(connection, sorted({row.task for row in late}))
    definitions = {key: jobs.get_definition(connection, *key) for key in {(row.job, row.job_revision) for row in rows}}
    freed = _ReadyExecutions()
    for row in rows:
        definition, parameters = definitions[row.job, row.job_revision], row.parameters
        expires = definition.expires if definition else None
        if row.id not in sources:
            freed.changed.append(resolved_executions.build_released(row, None, expires, now))
            continue
        if budget.results <= 0:
            freed.postponed.add(row.id)
            continue
        task = accepted.get(row.task)
        task_parameters = task.parameters if task else ()
        try:
            parameters = result_references.substitute_references(parameters, sources[row.id])
            preparation.check_parameters(task_parameters, parameters, "/parameters")
            policies = definition.policies if definition else {}
            keys = limits.compute_keys(row.job, policies, parameters, task_parameters)
            freed.replaced.update(_take_keys(connection, row.id, policies, keys, now))
            freed.changed.append(resolved_executions.build_released(row, parameters, expires, now))
        except UnresolvedParameter as error:
            freed.changed.append(resolved_executions.build_failed(row, "UnresolvedParameter", str(error)))
        except InvalidParameters as error:
            freed.changed.append(resolved_executions.build_failed(row, "InvalidParameters", error.detail))
        except UniqueKeyConflict as error:
            freed.changed.append(
                ResolvedExecution(row.id, ExecutionState.SKIPPED, error.detail, row.due_at, parameters, row.expires_at)
            )
    freed.changed = [execution for execution in freed.changed if execution.id not in freed.replaced]
    return freed


def _load_sources(
    connection: sa.Connection, referred: Mapping[str, Sequence[str]], budget: _Budget
) -> dict[str, _ReferenceSources]:
    """Return the results to which executions may refer, by execution id; `referred` contains the names in use."""
    parents = dependency_rows.get_result_sources(connection, list(referred))
    indexes = {key: _index_by_name(result_sources) for key, result_sources in parents.items()}
    execution_ids = (indexes[key][name] for key, names in referred.items() for name in names if name in indexes[key])
    results = _ParentResults(connection, execution_ids, budget)
    return {key: _ReferenceSources(ids, results) for key, ids in indexes.items()}


def _take_keys(
    connection: sa.Connection, execution_id: str, policies: Mapping[str, Any], keys: ExecutionKeys, now: dt.datetime
) -> Sequence[str]:
    """Set the keys of resolved parameters; return the executions replaced by unique key. Raises `UniqueKeyConflict`."""
    taken = (
        uniqueness.acquire_key(connection, execution_id, keys.unique_key, policies["unique"], now)
        if keys.unique_key
        else ()
    )
    if any(keys):
        dependency_rows.update_keys(connection, {execution_id: keys})
    return taken


def _index_by_name(parents: Iterable[ResultSource]) -> dict[str, str]:
    """Index the ids of parents by all names under which a dependent may refer to them."""
    return {name: row.execution_id for row in parents for name in (row.job, row.step, row.execution_id) if name}
