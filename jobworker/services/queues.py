"""Queues: what waits in them, who serves them, and stopping them for a while."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import QueueNotFound
from jobworker.domain.job import QUEUE, SHIPPED_QUEUES
from jobworker.services import naming
from jobworker.store import audit, executions, queues, workers
from jobworker.store.audit import AuditEntry
from jobworker.store.database import Database
from jobworker.store.pages import DEFAULT_LIMIT, Listing, Page, name_key
from jobworker.store.queues import QueueRow

MAX_NOTE = 1000


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue; what waits in it, `ready` in SQL and `published` with the workers; how many live workers serve it."""

    row: QueueRow
    ready: int
    oldest_due_at: dt.datetime | None
    published: int
    running: int
    workers: int


def page(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Queue]:
    """Queues by name: those that were submitted to, those that are shipped, and those that a live worker serves."""
    listing = Listing("queues", {}, name_key)
    after = listing.position(cursor)
    with database.read() as connection:
        known = _known(connection)
        names = [name for name in sorted(known) if after is None or name > after][: limit + 1]
        return listing.page(
            _described(connection, {name: known[name] for name in names}), limit, lambda each: each.row.name
        )


def get(database: Database, name: str) -> Queue:
    """One queue; raises `QueueNotFound`."""
    with database.read() as connection:
        [found] = _described(connection, {name: _find(connection, name)})
        return found


def pause(database: Database, clock: Clock, name: str, actor: str, note: str | None) -> Queue:
    """Let nothing more of a queue start. Whoever paused it first is kept; a note replaces the one before."""
    with database.write() as connection:
        row = _locked(connection, name, clock.now())
        by, at = row.paused_by or actor, row.paused_at or clock.now()
        _change(connection, row, QueueRow(name, at, by, note if note is not None else row.pause_note), actor, clock)
    return get(database, name)


def resume(database: Database, clock: Clock, name: str, actor: str) -> Queue:
    """The inverse; a queue that is not paused stays as it is."""
    with database.write() as connection:
        _change(connection, _locked(connection, name, clock.now()), QueueRow(name), actor, clock)
    return get(database, name)


def _change(connection: sa.Connection, before: QueueRow, after: QueueRow, actor: str, clock: Clock) -> None:
    if before != after:
        queues.pause(connection, after)
        action = "queue.pause" if after.paused_at else "queue.resume"
        audit.record(connection, AuditEntry(clock.now(), actor, action, after.name, _told(before), _told(after)))


def _told(row: QueueRow) -> dict[str, object]:
    since = row.paused_at.isoformat() if row.paused_at else None
    return {"paused_at": since, "paused_by": row.paused_by, "pause_note": row.pause_note}


def _locked(connection: sa.Connection, name: str, now: dt.datetime) -> QueueRow:
    """The row of a queue, which it gets now if nobody has submitted to it yet."""
    _find(connection, name)
    queues.remember(connection, [name], now)
    row = queues.get(connection, name, lock=True)
    assert row is not None, "it is there by now, and queues stay"
    return row


def _find(connection: sa.Connection, name: str) -> QueueRow:
    known = _known(connection)
    if name not in known or not QUEUE.match(name):
        raise QueueNotFound(naming.unknown("queue", name, sorted(known), "GET /api/v1/queues"))
    return known[name]


def _known(connection: sa.Connection) -> dict[str, QueueRow]:
    served = {name for worker in workers.live(connection) for name in worker.queues}
    found = {name: QueueRow(name) for name in {*SHIPPED_QUEUES, *served}}
    return found | {row.name: row for row in queues.all(connection)}


def _described(connection: sa.Connection, known: Mapping[str, QueueRow]) -> list[Queue]:
    published, running = queues.published(connection), queues.running(connection)
    serving = [name for worker in workers.live(connection) for name in worker.queues]
    return [
        Queue(
            row,
            *executions.ready_in(connection, name),
            published.get(name, 0),
            running.get(name, 0),
            serving.count(name),
        )
        for name, row in known.items()
    ]
