"""What happens when executions have ended, in the transaction that ends them: whoever waits for them goes on.

Whoever ends executions calls `release` with them. First starts what is triggered by them; then everything that depends
on them is settled: it goes on, or it ends as its dependency says, and then what depends on *it* is settled, in waves.
Last, batches are complete whose last execution has ended.
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
from jobworker.domain.jobs import limits, start_deadline
from jobworker.domain.jobs.limits import ExecutionKeys
from jobworker.domain.json import json_values
from jobworker.domain.workflows import result_references
from jobworker.domain.workflows.dependency import DependencyResolution, ParentExecution
from jobworker.domain.workflows.result_references import UnresolvedParameter
from jobworker.services.submissions import preparation, uniqueness
from jobworker.services.workflows import batch_completion, triggers
from jobworker.store import jobs, tasks
from jobworker.store.engine.database import UNAVAILABLE, describe_error
from jobworker.store.executions import dependency_rows
from jobworker.store.executions.dependency_rows import DependencyEdge, ResolvedExecution, ResultSource, WaitingExecution

#: Dependencies that one wave looks at, and waves that one transaction goes through: others want to write, too.
_WAVE_SIZE, _MAX_WAVES = 200, 50

#: What one transaction goes through, and a little more: dependencies, bytes of the parameters of executions that wait,
#: and bytes of results that these refer to.
_MAX_EDGES, _MAX_BYTES = 4000, 2 * 1024 * 1024

#: Executions whose parameters are read at a time, and results that are read, and held, at a time.
_LOCK_BATCH_SIZE, _RESULT_BATCH_SIZE = 40, 64

#: Longest explanation why an execution could not go on (characters).
_MAX_REASON_LENGTH = 500

logger = structlog.get_logger(__name__)

_DependencyOutcome = tuple[DependencyEdge, DependencyResolution]


@dataclass(frozen=True, slots=True)
class ResolutionResult:
    """How many executions go on, and whose dependents are still to be settled: give them to the next call."""

    released_count: int
    unfinished: Sequence[ParentExecution]


@dataclass(slots=True)
class _Budget:
    """The part of one transaction's bounds that is not used up."""

    edges: int = field(default_factory=lambda: _MAX_EDGES)
    parameters: int = field(default_factory=lambda: _MAX_BYTES)
    results: int = field(default_factory=lambda: _MAX_BYTES)

    @property
    def is_spent(self) -> bool:
        return min(self.edges, self.parameters, self.results) <= 0


@dataclass(slots=True)
class _WaveResult:
    """What came of one look at dependencies."""

    released_count: int = 0
    ended: list[ParentExecution] = field(default_factory=list)
    unfinished: list[ParentExecution] = field(default_factory=list)
    postponed: bool = False


@dataclass(slots=True)
class _ReadyExecutions:
    """What becomes of executions for which all has ended, and whom they replaced; the postponed stay as they are."""

    changed: list[ResolvedExecution] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    postponed: set[str] = field(default_factory=set)


class _ParentResults:
    """The results of parents, read a few at a time and only when something refers to them."""

    def __init__(self, connection: sa.Connection, ids: Iterable[str], budget: _Budget) -> None:
        self._connection = connection
        self._ids = list(dict.fromkeys(ids))
        self._places = {each: place for place, each in enumerate(self._ids)}
        self._budget = budget
        self._held: dict[str, Any] = {}

    def get(self, execution_id: str) -> Any:
        if execution_id not in self._held:
            place = self._places[execution_id]
            self._held = dependency_rows.get_results(self._connection, self._ids[place : place + _RESULT_BATCH_SIZE])
            self._budget.results -= sum(_measure_size(each) for each in self._held.values())
        return self._held[execution_id]


@dataclass(frozen=True, slots=True)
class _ReferenceSources:
    """The results to which one execution may refer, by every name that they have for it."""

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
    """Let go on what these ends allow. `unfinished` is what an earlier call left over."""
    triggers.start_triggered_jobs(connection, ended, now)
    everything, queue, budget = list(ended), [*unfinished, *ended], _Budget()
    count = waves = 0
    while queue and waves < _MAX_WAVES and not budget.is_spent:
        wave = _run_wave(connection, queue, now, budget)
        triggers.start_triggered_jobs(connection, wave.ended, now)
        everything += wave.ended
        queue = [*wave.unfinished, *wave.ended]
        count, waves = count + wave.released_count, waves + 1
    complete = {each.batch_id for each in everything if each.batch_id}
    return ResolutionResult(count + batch_completion.complete_batches(connection, complete, now), queue)


def resolve_new_dependents(
    connection: sa.Connection, ids: Sequence[str], ended: Mapping[str, ParentExecution], now: dt.datetime
) -> None:
    """Let go on those of these executions that were accepted when what they depend on had ended already."""
    edges = [
        edge for edge in dependency_rows.list_unresolved_by_child(connection, ids) if edge.dependency.parent in ended
    ]
    resolve_dependents(connection, _resolve_edges(connection, edges, ended, now, _Budget()).ended, now)


def resolve_missed(
    connection: sa.Connection, ended: Sequence[ParentExecution], complete: Sequence[str], now: dt.datetime
) -> ResolutionResult:
    """What should have been done when these executions, and the last ones of these batches, ended."""
    released = resolve_dependents(connection, (), now, unfinished=ended)
    batch_completion.complete_batches(connection, complete, now)
    return released


def _run_wave(
    connection: sa.Connection, parents: Sequence[ParentExecution], now: dt.datetime, budget: _Budget
) -> _WaveResult:
    edges = dependency_rows.list_unresolved(connection, [each.id for each in parents], _WAVE_SIZE)
    if not edges:
        return _WaveResult()
    budget.edges -= len(edges)
    wave = _resolve_edges(connection, edges, {each.id: each for each in parents}, now, budget)
    if wave.postponed or len(edges) == _WAVE_SIZE:
        wave.unfinished = list(parents)
    return wave


def _resolve_edges(
    connection: sa.Connection,
    edges: Sequence[DependencyEdge],
    parents: Mapping[str, ParentExecution],
    now: dt.datetime,
    budget: _Budget,
) -> _WaveResult:
    """Settle these dependencies on executions that have ended. A dependent that cannot go on fails alone."""
    mine: dict[str, list[_DependencyOutcome]] = {}
    for edge in edges:
        verdict = edge.dependency.resolve(parents[edge.dependency.parent].state)
        mine.setdefault(edge.execution_id, []).append((edge, verdict))
    try:
        with connection.begin_nested():
            return _resolve_all(connection, mine, parents, now, budget)
    except UNAVAILABLE:
        raise  # That is no dependent's fault.
    except Exception as error:  # noqa: BLE001  it is logged; a traceback would show parameters
        logger.error("release_refused", executions=len(mine), error=describe_error(error))
    wave, budget = _WaveResult(), _Budget()
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
    outcomes: list[_DependencyOutcome],
    parents: Mapping[str, ParentExecution],
    now: dt.datetime,
    budget: _Budget,
) -> _WaveResult:
    """Settle the dependencies of one execution; it fails if what it comes to cannot be written."""
    try:
        with connection.begin_nested():
            return _resolve_all(connection, {key: outcomes}, parents, now, budget)
    except UNAVAILABLE:
        raise
    except Exception as error:  # noqa: BLE001  it was logged with the others, and history tells of it
        dependency_rows.mark_resolved(connection, outcomes, now)
        rows = dependency_rows.lock_waiting(connection, [key])
        why = json_values.sanitize_text(f"what it comes to cannot be recorded: {describe_error(error)}")[
            :_MAX_REASON_LENGTH
        ]
        changed = [_build_failed(row, "ReleaseRefused", why) for row in rows.values()]
        dependency_rows.update_resolved(connection, changed, now)
        return _WaveResult(0, [_to_parent(rows[each.id], each) for each in changed])


def _resolve_all(
    connection: sa.Connection,
    outcomes_by_execution: Mapping[str, list[_DependencyOutcome]],
    parents: Mapping[str, ParentExecution],
    now: dt.datetime,
    budget: _Budget,
) -> _WaveResult:
    waiting, postponed = _lock_waiting(connection, sorted(outcomes_by_execution), budget)
    against = {key: found for key in waiting if (found := _find_obstacle(outcomes_by_execution[key]))}
    left = {
        key: row.waiting_for - len(outcomes_by_execution[key]) for key, row in waiting.items() if key not in against
    }
    dependency_rows.update_waiting_for(connection, [(key, number) for key, number in left.items() if number > 0])
    free = [waiting[key] for key, number in left.items() if number <= 0]
    freed = _release_ready(connection, free, now, budget)
    postponed |= freed.postponed
    dependency_rows.mark_resolved(
        connection,
        [each for key, outcomes in outcomes_by_execution.items() if key not in postponed for each in outcomes],
        now,
    )
    changed = [*(_build_stopped(waiting[key], outcome, parents) for key, outcome in against.items()), *freed.changed]
    dependency_rows.update_resolved(connection, changed, now)
    ended = [_to_parent(waiting[each.id], each) for each in changed if each.is_finished]
    ended += dependency_rows.find_ended(connection, freed.replaced)
    return _WaveResult(len(changed) - sum(each.is_finished for each in changed), ended, postponed=bool(postponed))


def _lock_waiting(
    connection: sa.Connection, keys: Sequence[str], budget: _Budget
) -> tuple[dict[str, WaitingExecution], set[str]]:
    """Return those of these executions that are Waiting, and the ids that are left to the next transaction.

    One that was cancelled meanwhile is not Waiting any more, and stays as it is.
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
        return 0  # It is no JSON, which is told where it is used.


def _find_obstacle(outcomes: Iterable[_DependencyOutcome]) -> _DependencyOutcome | None:
    """What keeps an execution from going on; a failure weighs more than a skip."""
    found = [outcome for outcome in outcomes if outcome[1] is not DependencyResolution.MET]
    return min(found, key=lambda outcome: outcome[1] is not DependencyResolution.FAIL, default=None)


def _build_stopped(
    row: WaitingExecution, outcome: _DependencyOutcome, parents: Mapping[str, ParentExecution]
) -> ResolvedExecution:
    edge, verdict = outcome
    parent = parents[edge.dependency.parent]
    reason = f"it depends on {parent.id} (job {parent.job}), which ended {parent.state}"
    if verdict is DependencyResolution.FAIL:
        return _build_failed(row, "DependencyFailed", reason)
    return ResolvedExecution(row.id, ExecutionState.SKIPPED, reason, row.due_at, None, row.expires_at)


def _release_ready(
    connection: sa.Connection, rows: Sequence[WaitingExecution], now: dt.datetime, budget: _Budget
) -> _ReadyExecutions:
    """Let these go for which all has ended as it should, or stop them by what their parameters come to."""
    referred = {row.id: result_references.list_sources(row.parameters) for row in rows}
    late = [row for row in rows if row.triggered_by or referred[row.id]]
    sources = _load_sources(connection, {row.id: referred[row.id] for row in late}, budget)
    accepted = tasks.get_many(connection, sorted({row.task for row in late}))
    definitions = {key: jobs.get_definition(connection, *key) for key in {(row.job, row.job_revision) for row in rows}}
    freed = _ReadyExecutions()
    for row in rows:
        definition, given = definitions[row.job, row.job_revision], row.parameters
        expires = definition.expires if definition else None
        if row.id not in sources:
            freed.changed.append(_build_released(row, None, expires, now))
            continue
        if budget.results <= 0:
            freed.postponed.add(row.id)
            continue
        task = accepted.get(row.task)
        known = task.parameters if task else ()
        try:
            given = result_references.resolve(given, sources[row.id])
            preparation.check_parameters(known, given, "/parameters")
            policies = definition.policies if definition else {}
            keys = limits.compute_keys(row.job, policies, given, known)
            freed.replaced.update(_take_keys(connection, row.id, policies, keys, now))
            freed.changed.append(_build_released(row, given, expires, now))
        except UnresolvedParameter as error:
            freed.changed.append(_build_failed(row, "UnresolvedParameter", str(error)))
        except InvalidParameters as error:
            freed.changed.append(_build_failed(row, "InvalidParameters", error.detail))
        except UniqueKeyConflict as error:
            freed.changed.append(
                ResolvedExecution(row.id, ExecutionState.SKIPPED, error.detail, row.due_at, given, row.expires_at)
            )
    freed.changed = [each for each in freed.changed if each.id not in freed.replaced]
    return freed


def _load_sources(
    connection: sa.Connection, referred: Mapping[str, Sequence[str]], budget: _Budget
) -> dict[str, _ReferenceSources]:
    """What each of these executions may refer to, by its id; `referred` are the names that it does refer to."""
    parents = dependency_rows.get_result_sources(connection, list(referred))
    named = {key: _index_by_name(found) for key, found in parents.items()}
    wanted = (named[key][name] for key, names in referred.items() for name in names if name in named[key])
    results = _ParentResults(connection, wanted, budget)
    return {key: _ReferenceSources(ids, results) for key, ids in named.items()}


def _take_keys(
    connection: sa.Connection, execution_id: str, policies: Mapping[str, Any], keys: ExecutionKeys, now: dt.datetime
) -> Sequence[str]:
    """Limits and uniqueness go by what the parameters are; answers whom it replaced. Raises `NotUnique`."""
    taken = (
        uniqueness.acquire_key(connection, execution_id, keys.unique_key, policies["unique"], now)
        if keys.unique_key
        else ()
    )
    if any(keys):
        dependency_rows.update_keys(connection, {execution_id: keys})
    return taken


def _build_released(
    row: WaitingExecution, new_parameters: Mapping[str, Any] | None, expires: float | None, now: dt.datetime
) -> ResolvedExecution:
    """When it is due counts from now if that is past, and so does its deadline; `new_parameters` are new parameters, if any."""
    later = row.due_at > now
    due_at = row.due_at if later else now
    expires_at = row.expires_at or start_deadline.compute_deadline(
        due_at, (row.overrides or {}).get("expires", expires)
    )
    return ResolvedExecution(
        row.id, ExecutionState.SCHEDULED if later else ExecutionState.QUEUED, None, due_at, new_parameters, expires_at
    )


def _index_by_name(parents: Iterable[ResultSource]) -> dict[str, str]:
    """The ids of parents by every name under which a dependent may refer to them."""
    return {name: each.execution_id for each in parents for name in (each.job, each.step, each.execution_id) if name}


def _build_failed(row: WaitingExecution, kind: str, reason: str) -> ResolvedExecution:
    error = {"type": kind, "message": reason, "traceback": None}
    return ResolvedExecution(row.id, ExecutionState.FAILED, reason, row.due_at, None, row.expires_at, error)


def _to_parent(row: WaitingExecution, changed: ResolvedExecution) -> ParentExecution:
    return ParentExecution(row.id, row.job, changed.state, row.batch_id, row.correlation_id)
