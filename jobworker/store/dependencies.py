"""What executions wait for. Whoever ends an execution settles in the same transaction what depends on it."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.dependencies import Dependency, On, Otherwise, Parent, Verdict
from jobworker.domain.execution import FINAL, State
from jobworker.domain.limits import Keys
from jobworker.store import bulk, unreadable
from jobworker.store.bulk import Bulk
from jobworker.store.pages import DEFAULT_LIMIT, Listing, Page, identifier_key
from jobworker.store.queues import insert_or_ignore
from jobworker.store.schema import dependencies, executions, transitions

#: Most ids in one IN list; SQLite allows 32,766 variables.
_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Edge:
    """An unsettled dependency of one execution."""

    execution_id: str
    dependency: Dependency


@dataclass(frozen=True, slots=True)
class Waiting:
    """An execution that waits for others; it is locked, so what is decided about it holds."""

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
class Changed:
    """How an execution stands that waits no longer; `parameters` is None if they stay as they are."""

    id: str
    state: State
    reason: str | None
    due_at: dt.datetime
    parameters: Mapping[str, Any] | None
    expires_at: dt.datetime | None
    error: Mapping[str, Any] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether it has ended instead of going on."""
        return self.state in FINAL


@dataclass(frozen=True, slots=True)
class Source:
    """A parent whose result is in its row, and the names under which a dependent may refer to it."""

    execution_id: str
    job: str
    step: str | None


@dataclass(frozen=True, slots=True)
class ParentRow:
    """One parent of an execution, for reading. `outcome` is None until the parent has ended."""

    execution_id: str
    job: str | None
    state: State | None
    step: str | None
    on: On
    otherwise: Otherwise
    outcome: Verdict | None
    settled_at: dt.datetime | None


_EDGES = (
    sa.select(dependencies.c.execution_id, dependencies.c.parent_id, dependencies.c.condition, dependencies.c.otherwise)
    .where(dependencies.c.settled_at.is_(None))
    .order_by(dependencies.c.parent_id, dependencies.c.execution_id)
)

# Asked in every turn in which something ends: built once, because building a statement costs as much as running it.
_UNSETTLED = _EDGES.where(dependencies.c.parent_id.in_(sa.bindparam("parents", expanding=True))).limit(
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

_INSERTED = ("execution_id", "parent_id", "condition", "otherwise")
_INSERT = Bulk(bulk.insert(dependencies, _INSERTED), _INSERTED)


def _saving(names: Sequence[str]) -> Bulk:
    values = {name: sa.bindparam(f"new_{name}", type_=executions.c[name].type) for name in names}
    query = sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(**values)
    return Bulk(lambda _dialect: query, ["key", *(f"new_{name}" for name in names)])


_SAVED = ("state", "reason", "waiting_for", "due_at", "expires_at", "error", "finished_at")
_SAVE, _SAVE_WITH_PARAMETERS = _saving(_SAVED), _saving((*_SAVED, "parameters"))
_SAVE_KEYS = _saving(Keys._fields)


def _build_count(_dialect: str) -> Any:
    left = sa.bindparam("left", type_=executions.c.waiting_for.type)
    return sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(waiting_for=left)


_COUNT = Bulk(_build_count, ("key", "left"))


def _build_settle(_dialect: str) -> Any:
    mine = (dependencies.c.execution_id == sa.bindparam("child"), dependencies.c.parent_id == sa.bindparam("parent"))
    told = {name: sa.bindparam(f"new_{name}", type_=dependencies.c[name].type) for name in ("outcome", "settled_at")}
    return sa.update(dependencies).where(*mine).values(told)


_SETTLE = Bulk(_build_settle, ("child", "parent", "new_outcome", "new_settled_at"))


def insert(connection: sa.Connection, edges: Iterable[Edge]) -> None:
    """Let executions that were just inserted wait."""
    needed = ((edge.execution_id, edge.dependency) for edge in edges)
    _INSERT.run(connection, [(child, each.parent, each.on.value, each.otherwise.value) for child, each in needed])


def lock_parents(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Parent]:
    """Return those of these executions that exist; none of them can end before this transaction does.

    Raises `UnreadableRow` if one of them has an unknown state.
    """
    return {each.id: each for each in _parents(connection, ids, sa.true(), lock=True)}


def ended(connection: sa.Connection, ids: Iterable[str]) -> list[Parent]:
    """Those of these executions that have ended."""
    return list(_parents(connection, ids, executions.c.state.in_([state.value for state in FINAL])))


def _parents(
    connection: sa.Connection, ids: Iterable[str], condition: sa.ColumnElement[bool], lock: bool = False
) -> Iterable[Parent]:
    columns = [executions.c[name] for name in Parent.__dataclass_fields__]
    for chunk in _chunks(sorted(set(ids))):
        query = sa.select(*columns).where(executions.c.id.in_(chunk), condition).order_by(executions.c.id)
        rows = connection.execute(query.with_for_update(read=True) if lock else query)
        # Whether an execution may depend on one that cannot be read is not known; what follows an end goes on.
        yield from map(_read_ended, rows) if lock else unreadable.those(rows, _read_ended)


def unsettled(connection: sa.Connection, parents: Sequence[str], limit: int) -> list[Edge]:
    """Up to `limit` dependencies on these parents that are not settled."""
    found: list[Edge] = []
    for chunk in _chunks(parents):
        rows = connection.execute(_UNSETTLED, {"parents": chunk, "most": limit - len(found)})
        found.extend(unreadable.those(rows, _read_edge))
        if len(found) >= limit:
            break
    return found


def unsettled_of(connection: sa.Connection, ids: Sequence[str]) -> list[Edge]:
    """What these executions still wait for."""
    return [
        edge
        for chunk in _chunks(ids)
        for edge in unreadable.those(
            connection.execute(_EDGES.where(dependencies.c.execution_id.in_(chunk))), _read_edge
        )
    ]


def lock_waiting(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Waiting]:
    """Those of these executions that are Waiting. Nobody else changes them before this transaction ends."""
    found: dict[str, Waiting] = {}
    columns = [executions.c[name] for name in Waiting.__dataclass_fields__]
    for chunk in _chunks(ids):
        query = sa.select(*columns).where(executions.c.id.in_(chunk), executions.c.state == State.WAITING)
        rows = connection.execute(query.order_by(executions.c.id).with_for_update())
        found.update((row.id, Waiting(*row)) for row in rows)
    return found


def settle(connection: sa.Connection, outcomes: Iterable[tuple[Edge, Verdict]], now: dt.datetime) -> None:
    """Write down what became of dependencies."""
    _SETTLE.run(
        connection,
        [(edge.execution_id, edge.dependency.parent, verdict.value, now) for edge, verdict in outcomes],
    )


def count_down(connection: sa.Connection, waiting: Iterable[tuple[str, int]]) -> None:
    """(id, for how many it still waits) of executions that go on waiting."""
    _COUNT.run(connection, waiting)


def save_keys(connection: sa.Connection, keys: Mapping[str, Keys]) -> None:
    """The keys of executions that were accepted before their parameters were known."""
    _SAVE_KEYS.run(connection, [(execution, *each) for execution, each in keys.items()])


def save(connection: sa.Connection, changed: Sequence[Changed], now: dt.datetime) -> None:
    """Write down executions that wait no longer."""
    _SAVE.run(connection, [_row(each, now) for each in changed if each.parameters is None])
    resolved = [(*_row(each, now), each.parameters) for each in changed if each.parameters is not None]
    _SAVE_WITH_PARAMETERS.run(connection, resolved)
    entered = [
        {"execution_id": each.id, "attempt": 0, "state": each.state.value, "at": now, "actor": "relay"}
        | {"reason": each.reason or "all that it waited for has ended"}
        for each in changed
    ]
    if entered:
        connection.execute(insert_or_ignore(connection, transitions), entered)


def sources(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[Source]]:
    """The parents to whose results these executions may refer, by the id of the dependent."""
    found: dict[str, list[Source]] = {each: [] for each in ids}
    for chunk in _chunks(ids):
        for child, *names in connection.execute(_SOURCES, {"children": chunk}):
            found[child].append(Source(*names))
    return found


def results(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Any]:
    """The results of these executions."""
    return {row.id: row.result for row in connection.execute(_RESULTS, {"parents": ids})}


def of(
    connection: sa.Connection,
    execution_id: str,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    only_unsettled: bool = False,
) -> Page[ParentRow]:
    """What an execution waits or waited for."""
    listing = Listing("dependencies", {"execution": execution_id}, identifier_key)
    query = (
        sa.select(dependencies, executions.c.job, executions.c.state, executions.c.step)
        .outerjoin(executions, executions.c.id == dependencies.c.parent_id)
        .where(dependencies.c.execution_id == execution_id)
        .order_by(dependencies.c.parent_id)
        .limit(limit + 1)
    )
    if only_unsettled:
        query = query.where(dependencies.c.settled_at.is_(None))
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(dependencies.c.parent_id > after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.parent_id, _read_parent, _what)


def parents_after(connection: sa.Connection, parent: str, limit: int) -> list[str]:
    """Up to `limit` executions with unsettled dependents, by id, after this one."""
    query = (
        sa.select(dependencies.c.parent_id)
        .distinct()
        .where(dependencies.c.settled_at.is_(None), dependencies.c.parent_id > parent)
        .order_by(dependencies.c.parent_id)
        .limit(limit)
    )
    return list(connection.scalars(query))


def _row(each: Changed, now: dt.datetime) -> tuple[Any, ...]:
    finished_at = now if each.is_finished else None
    return (
        each.id,
        each.state.value,
        each.reason,
        0,
        each.due_at,
        each.expires_at,
        each.error,
        finished_at,
    )


def _ended(row: Any) -> Parent:
    return Parent(row.id, row.job, State(row.state), row.batch_id, row.correlation_id)


def _edge(row: Any) -> Edge:
    return Edge(row.execution_id, Dependency(row.parent_id, On(row.condition), Otherwise(row.otherwise)))


def _parent(row: Any) -> ParentRow:
    return ParentRow(
        execution_id=row.parent_id,
        job=row.job,
        state=State(row.state) if row.state else None,
        step=row.step,
        on=On(row.condition),
        otherwise=Otherwise(row.otherwise),
        outcome=Verdict(row.outcome) if row.outcome else None,
        settled_at=row.settled_at,
    )


def _what(row: Any) -> str:
    return f"dependency of execution {row.execution_id} on {row.parent_id}"


_read_ended = unreadable.reader(lambda row: f"state of execution {row.id}", _ended)
_read_edge = unreadable.reader(_what, _edge)
_read_parent = unreadable.reader(_what, _parent, dependencies)


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))
