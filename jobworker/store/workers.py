"""Workers that have registered."""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.store import queues, unreadable_rows
from jobworker.store.tables.core import workers

_SHAPE = unreadable_rows.RowShape(
    workers, {"queues": unreadable_rows.is_string_list, "tasks": unreadable_rows.is_string_list}
)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """Worker; `gone_at` is the time when it stopped or was declared lost."""

    id: str
    host: str
    pid: int
    pool: str
    concurrency: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    code_version: str
    started_at: dt.datetime
    seen_at: dt.datetime
    gone_at: dt.datetime | None = None
    zone_data: str | None = None


def list_live(connection: sa.Connection) -> list[WorkerRow]:
    """Return the live workers."""
    rows = connection.execute(sa.select(workers).where(sa.text("gone_at IS NULL")))
    return list(unreadable_rows.read_all(rows, _to_row))


def list_started_since(connection: sa.Connection, moment: dt.datetime) -> list[WorkerRow]:
    """Return the workers that started at `moment` or later, whether or not they are live."""
    rows = connection.execute(sa.select(workers).where(workers.c.started_at >= moment))
    return list(unreadable_rows.read_all(rows, _to_row))


def get_host(connection: sa.Connection, worker: str) -> str | None:
    """Return the host of a worker, live or gone; None for an unknown worker."""
    return connection.scalar(sa.select(workers.c.host).where(workers.c.id == worker))


def update_live(connection: sa.Connection, rows: Sequence[WorkerRow], now: dt.datetime) -> None:
    """Write these live workers and the queues that they consume; mark all other workers as gone."""
    known_ids = {row.id for row in list_live(connection)}
    arrived = [row for row in rows if row.id not in known_ids]
    stayed = [row.id for row in rows if row.id in known_ids]
    for row in arrived:
        _upsert(connection, row)
    queues.upsert_many(connection, {name for row in rows for name in row.queues}, now)
    if stayed:
        connection.execute(sa.update(workers).where(workers.c.id.in_(stayed)).values(seen_at=now))
    mark_gone(connection, known_ids - {row.id for row in rows}, now)


def mark_gone(connection: sa.Connection, ids: Iterable[str], now: dt.datetime) -> None:
    """Mark these workers as gone."""
    worker_ids = list(ids)
    if worker_ids:
        connection.execute(sa.update(workers).where(workers.c.id.in_(worker_ids)).values(gone_at=now))


def _upsert(connection: sa.Connection, row: WorkerRow) -> None:
    values = {name: getattr(row, name) for name in WorkerRow.__dataclass_fields__}
    values.update(queues=list(row.queues), tasks=list(row.tasks))
    changed = connection.execute(sa.update(workers).where(workers.c.id == row.id).values(**values))
    if changed.rowcount == 0:
        connection.execute(sa.insert(workers).values(**values))


def _to_row(row: sa.Row[Any]) -> WorkerRow:
    values = {name: row._mapping[name] for name in WorkerRow.__dataclass_fields__}
    values = unreadable_rows.repair_row(f"worker {row.id}", values, _SHAPE)
    values.update(queues=tuple(values["queues"]), tasks=tuple(values["tasks"]))
    return WorkerRow(**values)
