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

from jobworker.domain import deadline, json_values, limits, references
from jobworker.domain.dependencies import Parent, Verdict
from jobworker.domain.errors import InvalidParameters, NotUnique
from jobworker.domain.execution import State
from jobworker.domain.limits import Keys
from jobworker.domain.references import UnresolvedParameter
from jobworker.services import completion, preparing, triggers, unique
from jobworker.store import dependencies, jobs, tasks
from jobworker.store.database import UNAVAILABLE, in_short
from jobworker.store.dependencies import Changed, Edge, Source, Waiting

#: Dependencies that one wave looks at, and waves that one transaction goes through: others want to write, too.
_EDGES, _WAVES = 200, 50

#: What one transaction goes through, and a little more: dependencies, bytes of the parameters of executions that wait,
#: and bytes of results that these refer to.
_MOST_EDGES, _MOST_BYTES = 4000, 2 * 1024 * 1024

#: Executions whose parameters are read at a time, and results that are read, and held, at a time.
_LOCKED, _RESULTS = 40, 64

#: Longest explanation why an execution could not go on (characters).
_LONGEST_REASON = 500

logger = structlog.get_logger(__name__)

_Outcome = tuple[Edge, Verdict]


@dataclass(frozen=True, slots=True)
class Released:
    """How many executions go on, and whose dependents are still to be settled: give them to the next call."""

    released_count: int
    unfinished: Sequence[Parent]


@dataclass(slots=True)
class _Budget:
    """The part of one transaction's bounds that is not used up."""

    edges: int = field(default_factory=lambda: _MOST_EDGES)
    parameters: int = field(default_factory=lambda: _MOST_BYTES)
    results: int = field(default_factory=lambda: _MOST_BYTES)

    @property
    def is_spent(self) -> bool:
        return min(self.edges, self.parameters, self.results) <= 0


@dataclass(slots=True)
class _Wave:
    """What came of one look at dependencies."""

    released_count: int = 0
    ended: list[Parent] = field(default_factory=list)
    unfinished: list[Parent] = field(default_factory=list)
    postponed: bool = False


@dataclass(slots=True)
class _Freed:
    """What becomes of executions for which all has ended, and whom they replaced; the postponed stay as they are."""

    changed: list[Changed] = field(default_factory=list)
    replaced: set[str] = field(default_factory=set)
    postponed: set[str] = field(default_factory=set)


class _Results:
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
            self._held = dependencies.results(self._connection, self._ids[place : place + _RESULTS])
            self._budget.results -= sum(_size(each) for each in self._held.values())
        return self._held[execution_id]


@dataclass(frozen=True, slots=True)
class _Sources:
    """The results to which one execution may refer, by every name that they have for it."""

    ids: Mapping[str, str]
    results: _Results

    def __getitem__(self, name: str) -> Any:
        return self.results.get(self.ids[name])


def release(
    connection: sa.Connection, ended: Sequence[Parent], now: dt.datetime, unfinished: Sequence[Parent] = ()
) -> Released:
    """Let go on what these ends allow. `unfinished` is what an earlier call left over."""
    triggers.fire(connection, ended, now)
    everything, queue, budget = list(ended), [*unfinished, *ended], _Budget()
    count = waves = 0
    while queue and waves < _WAVES and not budget.is_spent:
        wave = _wave(connection, queue, now, budget)
        triggers.fire(connection, wave.ended, now)
        everything += wave.ended
        queue = [*wave.unfinished, *wave.ended]
        count, waves = count + wave.released_count, waves + 1
    complete = {each.batch_id for each in everything if each.batch_id}
    return Released(count + completion.complete(connection, complete, now), queue)


def of_dependents(connection: sa.Connection, ids: Sequence[str], ended: Mapping[str, Parent], now: dt.datetime) -> None:
    """Let go on those of these executions that were accepted when what they depend on had ended already."""
    edges = [edge for edge in dependencies.unsettled_of(connection, ids) if edge.dependency.parent in ended]
    release(connection, _settle(connection, edges, ended, now, _Budget()).ended, now)


def settle(connection: sa.Connection, ended: Sequence[Parent], complete: Sequence[str], now: dt.datetime) -> Released:
    """What should have been done when these executions, and the last ones of these batches, ended."""
    released = release(connection, (), now, unfinished=ended)
    completion.complete(connection, complete, now)
    return released


def _wave(connection: sa.Connection, parents: Sequence[Parent], now: dt.datetime, budget: _Budget) -> _Wave:
    edges = dependencies.unsettled(connection, [each.id for each in parents], _EDGES)
    if not edges:
        return _Wave()
    budget.edges -= len(edges)
    wave = _settle(connection, edges, {each.id: each for each in parents}, now, budget)
    if wave.postponed or len(edges) == _EDGES:
        wave.unfinished = list(parents)
    return wave


def _settle(
    connection: sa.Connection, edges: Sequence[Edge], parents: Mapping[str, Parent], now: dt.datetime, budget: _Budget
) -> _Wave:
    """Settle these dependencies on executions that have ended. A dependent that cannot go on fails alone."""
    mine: dict[str, list[_Outcome]] = {}
    for edge in edges:
        verdict = edge.dependency.resolve(parents[edge.dependency.parent].state)
        mine.setdefault(edge.execution_id, []).append((edge, verdict))
    try:
        with connection.begin_nested():
            return _settle_all(connection, mine, parents, now, budget)
    except UNAVAILABLE:
        raise  # That is no dependent's fault.
    except Exception as error:  # noqa: BLE001  it is logged; a traceback would show parameters
        logger.error("release_refused", executions=len(mine), error=in_short(error))
    wave, budget = _Wave(), _Budget()
    for key, outcomes in sorted(mine.items()):
        if budget.is_spent:
            wave.postponed = True
            break
        alone = _settle_alone(connection, key, outcomes, parents, now, budget)
        wave.released_count += alone.released_count
        wave.ended += alone.ended
    return wave


def _settle_alone(
    connection: sa.Connection,
    key: str,
    outcomes: list[_Outcome],
    parents: Mapping[str, Parent],
    now: dt.datetime,
    budget: _Budget,
) -> _Wave:
    """Settle the dependencies of one execution; it fails if what it comes to cannot be written."""
    try:
        with connection.begin_nested():
            return _settle_all(connection, {key: outcomes}, parents, now, budget)
    except UNAVAILABLE:
        raise
    except Exception as error:  # noqa: BLE001  it was logged with the others, and history tells of it
        dependencies.settle(connection, outcomes, now)
        rows = dependencies.lock_waiting(connection, [key])
        why = json_values.mended(f"what it comes to cannot be recorded: {in_short(error)}")[:_LONGEST_REASON]
        changed = [_failed(row, "ReleaseRefused", why) for row in rows.values()]
        dependencies.save(connection, changed, now)
        return _Wave(0, [_as_parent(rows[each.id], each) for each in changed])


def _settle_all(
    connection: sa.Connection,
    mine: Mapping[str, list[_Outcome]],
    parents: Mapping[str, Parent],
    now: dt.datetime,
    budget: _Budget,
) -> _Wave:
    waiting, postponed = _lock_waiting(connection, sorted(mine), budget)
    against = {key: found for key in waiting if (found := _against(mine[key]))}
    left = {key: row.waiting_for - len(mine[key]) for key, row in waiting.items() if key not in against}
    dependencies.count_down(connection, [(key, number) for key, number in left.items() if number > 0])
    free = [waiting[key] for key, number in left.items() if number <= 0]
    freed = _freed(connection, free, now, budget)
    postponed |= freed.postponed
    dependencies.settle(
        connection, [each for key, outcomes in mine.items() if key not in postponed for each in outcomes], now
    )
    changed = [*(_stopped(waiting[key], outcome, parents) for key, outcome in against.items()), *freed.changed]
    dependencies.save(connection, changed, now)
    ended = [_as_parent(waiting[each.id], each) for each in changed if each.is_finished]
    ended += dependencies.ended(connection, freed.replaced)
    return _Wave(len(changed) - sum(each.is_finished for each in changed), ended, postponed=bool(postponed))


def _lock_waiting(
    connection: sa.Connection, keys: Sequence[str], budget: _Budget
) -> tuple[dict[str, Waiting], set[str]]:
    """Return those of these executions that are Waiting, and the ids that are left to the next transaction.

    One that was cancelled meanwhile is not Waiting any more, and stays as it is.
    """
    waiting: dict[str, Waiting] = {}
    for start in range(0, len(keys), _LOCKED):
        if budget.parameters <= 0:
            return waiting, set(keys[start:])
        rows = dependencies.lock_waiting(connection, keys[start : start + _LOCKED])
        budget.parameters -= sum(_size(row.parameters) for row in rows.values())
        waiting |= rows
    return waiting, set()


def _size(value: Any) -> int:
    try:
        return len(orjson.dumps(value))
    except TypeError:
        return 0  # It is no JSON, which is told where it is used.


def _against(outcomes: Iterable[_Outcome]) -> _Outcome | None:
    """What keeps an execution from going on; a failure weighs more than a skip."""
    found = [outcome for outcome in outcomes if outcome[1] is not Verdict.MET]
    return min(found, key=lambda outcome: outcome[1] is not Verdict.FAIL, default=None)


def _stopped(row: Waiting, outcome: _Outcome, parents: Mapping[str, Parent]) -> Changed:
    edge, verdict = outcome
    parent = parents[edge.dependency.parent]
    reason = f"it depends on {parent.id} (job {parent.job}), which ended {parent.state}"
    if verdict is Verdict.FAIL:
        return _failed(row, "DependencyFailed", reason)
    return Changed(row.id, State.SKIPPED, reason, row.due_at, None, row.expires_at)


def _freed(connection: sa.Connection, rows: Sequence[Waiting], now: dt.datetime, budget: _Budget) -> _Freed:
    """Let these go for which all has ended as it should, or stop them by what their parameters come to."""
    referred = {row.id: references.referred(row.parameters) for row in rows}
    late = [row for row in rows if row.triggered_by or referred[row.id]]
    sources = _sources(connection, {row.id: referred[row.id] for row in late}, budget)
    accepted = tasks.some(connection, sorted({row.task for row in late}))
    definitions = {key: jobs.revision(connection, *key) for key in {(row.job, row.job_revision) for row in rows}}
    freed = _Freed()
    for row in rows:
        definition, given = definitions[row.job, row.job_revision], row.parameters
        expires = definition.expires if definition else None
        if row.id not in sources:
            freed.changed.append(_on_its_way(row, None, expires, now))
            continue
        if budget.results <= 0:
            freed.postponed.add(row.id)
            continue
        task = accepted.get(row.task)
        known = task.parameters if task else ()
        try:
            given = references.resolve(given, sources[row.id])
            preparing.check_parameters(known, given, "/parameters")
            policies = definition.policies if definition else {}
            keys = limits.keys(row.job, policies, given, known)
            freed.replaced.update(_take_keys(connection, row.id, policies, keys, now))
            freed.changed.append(_on_its_way(row, given, expires, now))
        except UnresolvedParameter as error:
            freed.changed.append(_failed(row, "UnresolvedParameter", str(error)))
        except InvalidParameters as error:
            freed.changed.append(_failed(row, "InvalidParameters", error.detail))
        except NotUnique as error:
            freed.changed.append(Changed(row.id, State.SKIPPED, error.detail, row.due_at, given, row.expires_at))
    freed.changed = [each for each in freed.changed if each.id not in freed.replaced]
    return freed


def _sources(connection: sa.Connection, referred: Mapping[str, Sequence[str]], budget: _Budget) -> dict[str, _Sources]:
    """What each of these executions may refer to, by its id; `referred` are the names that it does refer to."""
    parents = dependencies.sources(connection, list(referred))
    named = {key: _by_name(found) for key, found in parents.items()}
    wanted = (named[key][name] for key, names in referred.items() for name in names if name in named[key])
    results = _Results(connection, wanted, budget)
    return {key: _Sources(ids, results) for key, ids in named.items()}


def _take_keys(
    connection: sa.Connection, execution_id: str, policies: Mapping[str, Any], keys: Keys, now: dt.datetime
) -> Sequence[str]:
    """Limits and uniqueness go by what the parameters are; answers whom it replaced. Raises `NotUnique`."""
    taken = unique.take(connection, execution_id, keys.unique_key, policies["unique"], now) if keys.unique_key else ()
    if any(keys):
        dependencies.save_keys(connection, {execution_id: keys})
    return taken


def _on_its_way(row: Waiting, given: Mapping[str, Any] | None, expires: float | None, now: dt.datetime) -> Changed:
    """When it is due counts from now if that is past, and so does its deadline; `given` are new parameters, if any."""
    later = row.due_at > now
    due_at = row.due_at if later else now
    expires_at = row.expires_at or deadline.of(due_at, (row.overrides or {}).get("expires", expires))
    return Changed(row.id, State.SCHEDULED if later else State.QUEUED, None, due_at, given, expires_at)


def _by_name(parents: Iterable[Source]) -> dict[str, str]:
    """The ids of parents by every name under which a dependent may refer to them."""
    return {name: each.execution_id for each in parents for name in (each.job, each.step, each.execution_id) if name}


def _failed(row: Waiting, kind: str, why: str) -> Changed:
    error = {"type": kind, "message": why, "traceback": None}
    return Changed(row.id, State.FAILED, why, row.due_at, None, row.expires_at, error)


def _as_parent(row: Waiting, changed: Changed) -> Parent:
    return Parent(row.id, row.job, changed.state, row.batch_id, row.correlation_id)
