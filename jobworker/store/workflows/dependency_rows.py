"""Dependencies of executions. A transaction that ends an execution also resolves the dependencies on it."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.jobs.limits import ExecutionKeys
from jobworker.domain.workflows.dependency import (
    Dependency,
    DependencyResolution,
    ParentExecution,
    RequiredOutcome,
    UnmetDependencyAction,
)
from jobworker.store import unreadable_rows
from jobworker.store.database import bulk_statements
from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.database.id_chunks import split_ids
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_id_key
from jobworker.store.queues import build_insert_or_ignore
from jobworker.store.tables.core import executions, transitions
from jobworker.store.tables.dependencies import dependencies


@dataclass(frozen=True, slots=True)
class DependencyEdge:
    """Unresolved dependency of one execution."""

    execution_id: str
    dependency: Dependency


@dataclass(frozen=True, slots=True)
class WaitingExecution:
    """Waiting execution; its row is locked, so a decision about it stays valid."""

    id: str
    job: str
    task: str
    batch_id: str | None
    correlation_id: str
    parameters: Mapping[str, Any]
    due_at: dt.datetime
    waiting_for: int
    job_revision: int
    overrides: Mapping[str, Any] | None
    expires_at: dt.datetime | None
    triggered_by: str | None


@dataclass(frozen=True, slots=True)
class ResolvedExecution:
    """New state of an execution that no longer waits; with `parameters` None the stored ones are kept."""

    id: str
    state: ExecutionState
    reason: str | None
    due_at: dt.datetime
    parameters: Mapping[str, Any] | None
    expires_at: dt.datetime | None
    error: Mapping[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """True if the execution has ended instead of being released."""
        return self.state in FINAL_STATES


@dataclass(frozen=True, slots=True)
class ResultSource:
    """Parent whose result is in its row, with the names by which a dependent may refer to it."""

    execution_id: str
    job: str
    step: str | None


@dataclass(frozen=True, slots=True)
class ParentRow:
    """Parent of an execution, for listings. `outcome` stays None until the parent has ended."""

    execution_id: str
    job: str | None
    state: ExecutionState | None
    step: str | None
    on: RequiredOutcome
    otherwise: UnmetDependencyAction
    outcome: DependencyResolution | None
    settled_at: dt.datetime | None


_EDGES = (
    sa.select(dependencies.c.execution_id, dependencies.c.parent_id, dependencies.c.condition, dependencies.c.otherwise)
    .where(dependencies.c.settled_at.is_(None))
    .order_by(dependencies.c.parent_id, dependencies.c.execution_id)
)

# Runs in every relay turn in which executions end; built once, because building it costs as much as running it.
_UNRESOLVED = _EDGES.where(dependencies.c.parent_id.in_(sa.bindparam("parents", expanding=True))).limit(
    sa.bindparam("most", type_=sa.Integer)
)

_SOURCES = (
    sa.select(dependencies.c.execution_id, *(executions.c[name] for name in ("id", "job", "step")))
    .join(executions, executions.c.id == dependencies.c.parent_id)
    .where(dependencies.c.execution_id.in_(sa.bindparam("children", expanding=True)))
    .where(executions.c.result_file.is_(None))
)
_RESULTS = sa.select(executions.c.id, executions.c.result).where(
    executions.c.id.in_(sa.bindparam("parents", expanding=True))
)

_INSERT_COLUMNS = ("execution_id", "parent_id", "condition", "otherwise")
_INSERT = BulkStatement(bulk_statements.build_insert(dependencies, _INSERT_COLUMNS), _INSERT_COLUMNS)


def _build_save(names: Sequence[str]) -> BulkStatement:
    values = {name: sa.bindparam(f"new_{name}", type_=executions.c[name].type) for name in names}
    query = sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(**values)
    return BulkStatement(lambda _dialect: query, ["key", *(f"new_{name}" for name in names)])


_SAVED_COLUMNS = ("state", "reason", "waiting_for", "due_at", "expires_at", "error", "finished_at")
_SAVE, _SAVE_WITH_PARAMETERS = _build_save(_SAVED_COLUMNS), _build_save((*_SAVED_COLUMNS, "parameters"))
_SAVE_KEYS = _build_save(ExecutionKeys._fields)


def _build_waiting_for_update(_dialect: str) -> Any:
    waiting_for = sa.bindparam("left", type_=executions.c.waiting_for.type)
    return sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(waiting_for=waiting_for)


_UPDATE_WAITING_FOR = BulkStatement(_build_waiting_for_update, ("key", "left"))


def _build_mark_resolved(_dialect: str) -> Any:
    key = (dependencies.c.execution_id == sa.bindparam("child"), dependencies.c.parent_id == sa.bindparam("parent"))
    values = {name: sa.bindparam(f"new_{name}", type_=dependencies.c[name].type) for name in ("outcome", "settled_at")}
    return sa.update(dependencies).where(*key).values(values)


_MARK_RESOLVED = BulkStatement(_build_mark_resolved, ("child", "parent", "new_outcome", "new_settled_at"))


def insert(connection: sa.Connection, edges: Iterable[DependencyEdge]) -> None:
    """Insert the dependencies of executions that were just inserted."""
    pairs = ((edge.execution_id, edge.dependency) for edge in edges)
    _INSERT.run(
        connection,
        [(child, dependency.parent, dependency.on.value, dependency.otherwise.value) for child, dependency in pairs],
    )


def lock_parents(connection: sa.Connection, ids: Iterable[str]) -> dict[str, ParentExecution]:
    """Return the existing executions among `ids`, locked so that they cannot end before this transaction does.

    Raises `UnreadableRow` if an execution has an unknown state.
    """
    return {parent.id: parent for parent in _select_parents(connection, ids, sa.true(), lock=True)}


def find_ended(connection: sa.Connection, ids: Iterable[str]) -> list[ParentExecution]:
    """Return the executions among `ids` that have ended."""
    return list(_select_parents(connection, ids, executions.c.state.in_([state.value for state in FINAL_STATES])))


def _select_parents(
    connection: sa.Connection, ids: Iterable[str], condition: sa.ColumnElement[bool], lock: bool = False
) -> Iterable[ParentExecution]:
    columns = [executions.c[name] for name in ParentExecution.__dataclass_fields__]
    for chunk in split_ids(sorted(set(ids))):
        query = sa.select(*columns).where(executions.c.id.in_(chunk), condition).order_by(executions.c.id)
        rows = connection.execute(query.with_for_update(read=True) if lock else query)
        # An execution must not depend on an unreadable parent (raise); resolution after an end skips unreadable rows.
        yield from map(_read_ended, rows) if lock else unreadable_rows.read_all(rows, _read_ended)


def list_unresolved(connection: sa.Connection, parents: Sequence[str], limit: int) -> list[DependencyEdge]:
    """Return up to `limit` unresolved dependencies on these parents."""
    edges: list[DependencyEdge] = []
    for chunk in split_ids(parents):
        rows = connection.execute(_UNRESOLVED, {"parents": chunk, "most": limit - len(edges)})
        edges.extend(unreadable_rows.read_all(rows, _read_edge))
        if len(edges) >= limit:
            break
    return edges


def list_unresolved_by_child(connection: sa.Connection, ids: Sequence[str]) -> list[DependencyEdge]:
    """Return the unresolved dependencies of these executions."""
    return [
        edge
        for chunk in split_ids(ids)
        for edge in unreadable_rows.read_all(
            connection.execute(_EDGES.where(dependencies.c.execution_id.in_(chunk))), _read_edge
        )
    ]


def lock_waiting(connection: sa.Connection, ids: Sequence[str]) -> dict[str, WaitingExecution]:
    """Lock the Waiting executions among `ids` until this transaction ends; return them by id."""
    waiting: dict[str, WaitingExecution] = {}
    columns = [executions.c[name] for name in WaitingExecution.__dataclass_fields__]
    for chunk in split_ids(ids):
        query = sa.select(*columns).where(executions.c.id.in_(chunk), executions.c.state == ExecutionState.WAITING)
        rows = connection.execute(query.order_by(executions.c.id).with_for_update())
        waiting.update((row.id, WaitingExecution(*row)) for row in rows)
    return waiting


def mark_resolved(
    connection: sa.Connection, outcomes: Iterable[tuple[DependencyEdge, DependencyResolution]], now: dt.datetime
) -> None:
    """Write the outcomes of dependencies."""
    _MARK_RESOLVED.run(
        connection,
        [(edge.execution_id, edge.dependency.parent, verdict.value, now) for edge, verdict in outcomes],
    )


def update_waiting_for(connection: sa.Connection, waiting: Iterable[tuple[str, int]]) -> None:
    """Write (id, number of unresolved dependencies) of executions that keep waiting."""
    _UPDATE_WAITING_FOR.run(connection, waiting)


def update_keys(connection: sa.Connection, keys: Mapping[str, ExecutionKeys]) -> None:
    """Write the keys of executions that were accepted before their parameters were known."""
    _SAVE_KEYS.run(connection, [(execution, *execution_keys) for execution, execution_keys in keys.items()])


def update_resolved(connection: sa.Connection, changed: Sequence[ResolvedExecution], now: dt.datetime) -> None:
    """Write the new states of executions that no longer wait, and their transitions."""
    _SAVE.run(connection, [_to_values(row, now) for row in changed if row.parameters is None])
    resolved = [(*_to_values(row, now), row.parameters) for row in changed if row.parameters is not None]
    _SAVE_WITH_PARAMETERS.run(connection, resolved)
    entered = [
        {"execution_id": execution.id, "attempt": 0, "state": execution.state.value, "at": now, "actor": "relay"}
        | {"reason": execution.reason or "all that it waited for has ended"}
        for execution in changed
    ]
    if entered:
        connection.execute(build_insert_or_ignore(connection, transitions), entered)


def get_result_sources(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[ResultSource]]:
    """Return the parents to whose results these executions may refer, by the id of the dependent."""
    sources: dict[str, list[ResultSource]] = {execution_id: [] for execution_id in ids}
    for chunk in split_ids(ids):
        for child, *names in connection.execute(_SOURCES, {"children": chunk}):
            sources[child].append(ResultSource(*names))
    return sources


def get_results(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Any]:
    """Return the results of these executions, by id."""
    return {row.id: row.result for row in connection.execute(_RESULTS, {"parents": ids})}


def list_parents(
    connection: sa.Connection,
    execution_id: str,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    only_unresolved: bool = False,
) -> Page[ParentRow]:
    """Return a page of the parents that an execution waits or waited for."""
    listing = Paginator("dependencies", {"execution": execution_id}, parse_id_key)
    query = (
        sa.select(dependencies, executions.c.job, executions.c.state, executions.c.step)
        .outerjoin(executions, executions.c.id == dependencies.c.parent_id)
        .where(dependencies.c.execution_id == execution_id)
        .order_by(dependencies.c.parent_id)
        .limit(limit + 1)
    )
    if only_unresolved:
        query = query.where(dependencies.c.settled_at.is_(None))
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(dependencies.c.parent_id > after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.parent_id, _read_parent, _describe_row)


def list_parents_after(connection: sa.Connection, parent: str, limit: int) -> list[str]:
    """Return the ids of the next `limit` executions after `parent` that have unresolved dependents."""
    query = (
        sa.select(dependencies.c.parent_id)
        .distinct()
        .where(dependencies.c.settled_at.is_(None), dependencies.c.parent_id > parent)
        .order_by(dependencies.c.parent_id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def _to_values(execution: ResolvedExecution, now: dt.datetime) -> tuple[Any, ...]:
    finished_at = now if execution.is_finished else None
    return (
        execution.id,
        execution.state.value,
        execution.reason,
        0,
        execution.due_at,
        execution.expires_at,
        execution.error,
        finished_at,
    )


def _to_parent(row: Any) -> ParentExecution:
    return ParentExecution(row.id, row.job, ExecutionState(row.state), row.batch_id, row.correlation_id)


def _to_edge(row: Any) -> DependencyEdge:
    return DependencyEdge(
        row.execution_id,
        Dependency(row.parent_id, RequiredOutcome(row.condition), UnmetDependencyAction(row.otherwise)),
    )


def _to_parent_row(row: Any) -> ParentRow:
    return ParentRow(
        execution_id=row.parent_id,
        job=row.job,
        state=ExecutionState(row.state) if row.state else None,
        step=row.step,
        on=RequiredOutcome(row.condition),
        otherwise=UnmetDependencyAction(row.otherwise),
        outcome=DependencyResolution(row.outcome) if row.outcome else None,
        settled_at=row.settled_at,
    )


def _describe_row(row: Any) -> str:
    return f"dependency of execution {row.execution_id} on {row.parent_id}"


_read_ended = unreadable_rows.build_reader(lambda row: f"state of execution {row.id}", _to_parent)
_read_edge = unreadable_rows.build_reader(_describe_row, _to_edge)
_read_parent = unreadable_rows.build_reader(_describe_row, _to_parent_row, dependencies)
