"""Queues besides the default ones: their rows, uses and pauses."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobworker.domain.jobs.definition import QUEUE_NAME_PATTERN
from jobworker.domain.schedules.schedule import ScheduleState
from jobworker.store import unreadable_rows
from jobworker.store.database.id_chunks import split_ids
from jobworker.store.tables import core
from jobworker.store.tables.core import HELD_BACK, PUBLISHED, READY_LIMITED, READY_UNLIMITED, RUNNING
from jobworker.store.tables.schedules import job_schedules

_queues = core.queues
_queue = core.executions.c.queue


@dataclass(frozen=True, slots=True)
class QueueRow:
    """Queue. `paused_at` is set while the queue is paused, `created_by` if the queue was created explicitly."""

    name: str
    paused_at: dt.datetime | None = None
    paused_by: str | None = None
    pause_note: str | None = None
    created_by: str | None = None


class ReadyQueue(NamedTuple):
    """Queue with ready executions; `limited` if any of them is under limits."""

    name: str
    limited: bool


class PausedQueue(NamedTuple):
    """Paused queue, and the time of the pause."""

    name: str
    since: dt.datetime


_SELECT_ROWS = sa.select(*(_queues.c[name] for name in QueueRow.__dataclass_fields__))
_PAUSED = _SELECT_ROWS.where(sa.text("paused_at IS NOT NULL"))


def upsert_many(connection: sa.Connection, names: Collection[str], now: dt.datetime) -> None:
    """Insert these queues unless they exist, and mark them as used. Names that HTTP cannot address are left out.

    The rows are sorted, so that two transactions cannot deadlock.
    """
    rows = [{"name": name, "created_at": now} for name in sorted(set(names)) if QUEUE_NAME_PATTERN.match(name)]
    if rows:
        changed = _build_insert(connection).on_conflict_do_update(
            index_elements=["name"], set_={"unused_since": None}, where=_queues.c.unused_since.is_not(None)
        )
        connection.execute(changed, rows)


def create(connection: sa.Connection, name: str, actor: str, now: dt.datetime) -> None:
    """Insert a queue explicitly, or make a queue that was added automatically permanent."""
    values = {"created_by": actor, "unused_since": None}
    query = _build_insert(connection).on_conflict_do_update(index_elements=["name"], set_=values)
    connection.execute(query, {"name": name, "created_at": now, "created_by": actor})


def delete(connection: sa.Connection, name: str) -> None:
    """Delete a queue."""
    connection.execute(sa.delete(_queues).where(_queues.c.name == name))


def find_existing(connection: sa.Connection, names: Collection[str]) -> set[str]:
    """Return the names of these queues that have a row."""
    existing_names: set[str] = set()
    for chunk in split_ids(sorted(names)):
        query = sa.select(_queues.c.name).where(_queues.c.name.in_(chunk))
        existing_names.update(connection.scalars(query))
    return existing_names


def list_names(connection: sa.Connection, limit: int) -> list[str]:
    """Return the first `limit` queue names."""
    return list(connection.scalars(sa.select(_queues.c.name).order_by(_queues.c.name).limit(limit)))


def list_after(connection: sa.Connection, name: str | None, limit: int) -> list[QueueRow]:
    """Return the next `limit` queues after a name (None: from the first), in the order in which Python sorts names."""
    ordered = sa.collate(_queues.c.name, "C" if connection.dialect.name == "postgresql" else "BINARY")
    query = _SELECT_ROWS if name is None else _SELECT_ROWS.where(ordered > name)
    return list(unreadable_rows.read_all(connection.execute(query.order_by(ordered).limit(limit)), _to_row))


def find_paused(connection: sa.Connection, names: Collection[str]) -> list[QueueRow]:
    """Return the paused queues among `names`, which may contain some thousands of names at most."""
    return list(unreadable_rows.read_all(connection.execute(_PAUSED.where(_queues.c.name.in_(names))), _to_row))


def has_paused(connection: sa.Connection) -> bool:
    """Return whether any queue is paused."""
    return connection.scalar(_ANY_PAUSED) is not None


def list_paused_published(connection: sa.Connection) -> list[PausedQueue]:
    """Return the paused queues with published executions; `JOBWORKER_FEED` bounds their number."""
    return [PausedQueue(*row) for row in connection.execute(_PAUSED_PUBLISHED)]


def list_paused_after(connection: sa.Connection, name: str, limit: int) -> list[PausedQueue]:
    """Return the next `limit` paused queues whose names come after `name`."""
    return [PausedQueue(*row) for row in connection.execute(_PAUSED_AFTER, {"after": name, "most": limit})]


_PAUSES = sa.select(_queues.c.name, _queues.c.paused_at).where(sa.text("paused_at IS NOT NULL"))
_ANY_PAUSED = _PAUSES.limit(1)
_PAUSED_PUBLISHED = _PAUSES.where(_queues.c.name.in_(sa.select(_queue).where(sa.text(PUBLISHED)).distinct()))
_PAUSED_AFTER = (
    _PAUSES.where(_queues.c.name > sa.bindparam("after"))
    .order_by(_queues.c.name)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


def get(connection: sa.Connection, name: str, lock: bool = False) -> QueueRow | None:
    """Return a queue; `lock` keeps other transactions from changing it until this one ends."""
    query = _SELECT_ROWS.where(_queues.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return _to_row(row) if row is not None else None


_SHAPE = unreadable_rows.RowShape(_queues)


def _to_row(row: sa.Row[Any]) -> QueueRow:
    return QueueRow(**unreadable_rows.repair_row(f"queue {row.name}", dict(row._mapping), _SHAPE))


def update_pause(connection: sa.Connection, row: QueueRow) -> None:
    """Write the pause of a queue, or its absence."""
    values = {name: getattr(row, name) for name in ("paused_at", "paused_by", "pause_note")}
    connection.execute(sa.update(_queues).where(_queues.c.name == row.name).values(**values))


def find_ready(connection: sa.Connection, names: Collection[str]) -> list[ReadyQueue]:
    """Return the queues among `names` that are not paused and have ready executions: a few index steps for each."""
    if not names:
        return []
    parameters = {"names": orjson.dumps(sorted(names)).decode()}
    rows = connection.execute(_READY[connection.dialect.name], parameters)
    return [ReadyQueue(row.name, bool(row.limited)) for row in rows if row.free or row.limited]


_READY = {
    dialect: sa.text(f"""
SELECT value AS name, EXISTS (SELECT 1 FROM executions WHERE {READY_UNLIMITED} AND queue = asked.value) AS free,
       EXISTS (SELECT 1 FROM executions WHERE {READY_LIMITED} AND queue = asked.value) AS limited
  FROM {rows} AS asked
 WHERE NOT EXISTS (SELECT 1 FROM queues WHERE queues.name = asked.value AND paused_at IS NOT NULL)""")
    for dialect, rows in (
        ("sqlite", "json_each(:names)"),
        ("postgresql", "jsonb_array_elements_text(CAST(:names AS jsonb))"),
    )
}


def count_published(connection: sa.Connection) -> dict[str, int]:
    """Count the published executions of each queue that have not started."""
    return _count_by_queue(connection, PUBLISHED)


def count_running(connection: sa.Connection) -> dict[str, int]:
    """Count the running executions of each queue."""
    return _count_by_queue(connection, RUNNING)


def _count_by_queue(connection: sa.Connection, condition: str) -> dict[str, int]:
    query = sa.select(_queue, sa.func.count()).where(sa.text(condition)).group_by(_queue)
    return {row[0]: row[1] for row in connection.execute(query)}


def _has_executions(condition: str) -> sa.ColumnElement[bool]:
    query = sa.select(sa.literal(1)).where(sa.text(condition), _queue == _queues.c.name)
    return sa.exists(query.correlate(_queues))


def _is_named_in(column: str, table: sa.Table, *conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    name: sa.ColumnElement[str] = sa.literal_column(f"{table.name}.{column} ->> 'queue'", sa.String)
    return _queues.c.name.in_(sa.select(name).select_from(table).where(name.is_not(None), *conditions))


#: Conditions under which a queue is in use according to SQL, by their description. `JOBWORKER_FEED` and the slots of
#: the workers bound the published and running executions; the other conditions use an index that begins with the queue.
_USE_CONDITIONS = {
    "a job's definition names it": [_is_named_in("definition", core.job_definitions)],
    "a schedule names it": [_is_named_in("spec", job_schedules, job_schedules.c.state != ScheduleState.RETIRED.value)],
    "it has unfinished executions": [
        *(_has_executions(condition) for condition in (READY_UNLIMITED, READY_LIMITED, HELD_BACK)),
        *(_queues.c.name.in_(sa.select(_queue).where(sa.text(condition))) for condition in (PUBLISHED, RUNNING)),
    ],
}
_IS_USED = sa.or_(*(condition for conditions in _USE_CONDITIONS.values() for condition in conditions))


def list_uses(connection: sa.Connection, name: str) -> list[str]:
    """Return the reasons why a queue is in use, apart from workers and pauses."""
    query = sa.select(_queues.c.name).where(_queues.c.name == name)
    return [
        reason
        for reason, conditions in _USE_CONDITIONS.items()
        if connection.scalar(query.where(sa.or_(*conditions))) is not None
    ]


def delete_unused(
    connection: sa.Connection, used_names: Collection[str], now: dt.datetime, before: dt.datetime, limit: int
) -> list[str]:
    """Delete up to `limit` queues that have been unused since `before` or earlier; return their names.

    Only automatically added queues are deleted. `used_names` are queues in use for reasons outside SQL.
    """
    used = sa.or_(
        _queues.c.created_by.is_not(None), _queues.c.paused_at.is_not(None), _queues.c.name.in_(used_names), _IS_USED
    )
    marked, change = _queues.c.unused_since.is_not(None), sa.update(_queues)
    connection.execute(change.where(_select_queues(limit, marked, used)).values(unused_since=None))
    gone = (
        sa.delete(_queues)
        .where(_select_queues(limit, _queues.c.unused_since <= before, ~used))
        .returning(_queues.c.name)
    )
    removed = sorted(connection.scalars(gone))
    connection.execute(change.where(_select_queues(limit, ~marked, ~used)).values(unused_since=now))
    return removed


def _select_queues(limit: int, *conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    query: sa.Select[Any] = sa.select(_queues.c.name).where(*conditions).limit(limit)
    return _queues.c.name.in_(query.subquery().select())


def build_insert_or_ignore(connection: sa.Connection, table: sa.Table) -> Any:
    """Build INSERT … ON CONFLICT DO NOTHING in the dialect of this database; its row count is 0 for an existing row."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    # On PostgreSQL SQLAlchemy drops the row count (-1) without this option.
    return dialect.insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def _build_insert(connection: sa.Connection) -> Any:
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(_queues)
