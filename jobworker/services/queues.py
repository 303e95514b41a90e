"""Use cases of queues: get, list, create, remove, pause, resume."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain.errors import FieldError, InvalidInput, QueueInUse, QueueNotFound
from jobworker.domain.jobs.definition import BUILTIN_QUEUES, QUEUE_NAME_FORM, QUEUE_NAME_PATTERN
from jobworker.domain.json import json_reader
from jobworker.services import lookup
from jobworker.store import audit, queues, workers
from jobworker.store.audit import AuditEntry
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_name_key
from jobworker.store.queues import QueueRow

logger = structlog.get_logger(__name__)

MAX_NOTE_LENGTH = 1000

#: Interval at which the relay looks for unused queues (s).
REMOVE_INTERVAL_SECONDS = 600.0

#: Time after which an unused queue is removed; long, because workers may be stopped for a while.
UNUSED_RETENTION = dt.timedelta(hours=1)

#: Maximum number of queues removed per round, because a round is one transaction that other writers wait for.
_REMOVE_BATCH_SIZE = 5_000

#: Maximum number of removed queues named in the log.
_MAX_NAMES_LOGGED = 10


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """A queue and its numbers of executions and live workers.

    `ready` executions wait in SQL, `published` ones have a message in Redis or at a worker.
    """

    row: QueueRow
    ready: int
    oldest_due_at: dt.datetime | None
    published: int
    running: int
    workers: int


def list_page(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[QueueStatus]:
    """Return a page of queues by name: built-in ones, those of live workers, and declared or created ones."""
    listing = Paginator("queues", {}, parse_name_key)
    after = listing.parse_cursor(cursor)
    with database.read() as connection:
        rows = {name: QueueRow(name) for name in {*BUILTIN_QUEUES, *_list_served(connection)}}
        rows |= {row.name: row for row in queues.list_after(connection, after, limit + 1)}
        names = [name for name in sorted(rows) if after is None or name > after][: limit + 1]
        return listing.build_page(
            _load_statuses(connection, {name: rows[name] for name in names}), limit, lambda status: status.row.name
        )


def get(database: Database, name: str) -> QueueStatus:
    """Return a queue. Raises `QueueNotFound`."""
    with database.read() as connection:
        [status] = _load_statuses(connection, {name: _find(connection, name)})
        return status


def create(database: Database, clock: Clock, name: str, actor: str) -> tuple[QueueStatus, bool]:
    """Create a queue, which exists until it is removed; idempotent. Return it and whether it is new."""
    if not QUEUE_NAME_PATTERN.match(name):
        message = f"the name of a queue must {QUEUE_NAME_FORM}"
        raise InvalidInput(message, [FieldError("name", "not_allowed", message)])
    with database.write() as connection:
        row = queues.get(connection, name, lock=True)
        new = row is None and name not in BUILTIN_QUEUES
        if name not in BUILTIN_QUEUES and (row is None or row.created_by is None):
            queues.create(connection, name, actor, clock.now())
            _record_audit(
                connection, clock, actor, "queue.create", row, replace(row or QueueRow(name), created_by=actor)
            )
    return get(database, name), new


def remove(database: Database, clock: Clock, name: str, actor: str) -> None:
    """Remove an unused queue. Raises `QueueInUse` with everything that uses the queue."""
    with database.write() as connection:
        row = queues.get(connection, name, lock=True) if QUEUE_NAME_PATTERN.match(name) else None
        row = row or _find(connection, name)
        used = list(_list_uses(connection, row))
        if used:
            raise QueueInUse(f"queue {name} cannot be removed: {'; '.join(used)}")
        queues.delete(connection, name)
        _record_audit(connection, clock, actor, "queue.remove", row, None)


def remove_unused(database: Database, clock: Clock) -> None:
    """Remove queues that were added automatically and are unused; one bounded round."""
    now = clock.now()
    with database.write() as connection:
        kept = {*BUILTIN_QUEUES, *_list_served(connection)}
        removed = queues.delete_unused(connection, kept, now, now - UNUSED_RETENTION, _REMOVE_BATCH_SIZE)
    if removed:
        logger.info(
            "queues_removed",
            count=len(removed),
            first=removed[:_MAX_NAMES_LOGGED],
            why=f"unused for {UNUSED_RETENTION}",
        )


def pause(database: Database, clock: Clock, name: str, actor: str, note: str | None) -> QueueStatus:
    """Pause a queue: no more of its executions start. The first actor is kept; a new note replaces the old one."""
    json_reader.check_note(note)
    with database.write() as connection:
        row = _lock_row(connection, name, clock.now())
        by, at = row.paused_by or actor, row.paused_at or clock.now()
        note = note if note is not None else row.pause_note
        _update_pause(connection, row, replace(row, paused_at=at, paused_by=by, pause_note=note), actor, clock)
    return get(database, name)


def resume(database: Database, clock: Clock, name: str, actor: str) -> QueueStatus:
    """Resume a paused queue; a queue that is not paused stays as it is."""
    with database.write() as connection:
        row = _lock_row(connection, name, clock.now())
        _update_pause(connection, row, replace(row, paused_at=None, paused_by=None, pause_note=None), actor, clock)
    return get(database, name)


def _update_pause(connection: sa.Connection, before: QueueRow, after: QueueRow, actor: str, clock: Clock) -> None:
    if before != after:
        queues.update_pause(connection, after)
        _record_audit(connection, clock, actor, "queue.pause" if after.paused_at else "queue.resume", before, after)


def _record_audit(
    connection: sa.Connection, clock: Clock, actor: str, action: str, before: QueueRow | None, after: QueueRow | None
) -> None:
    [name] = {row.name for row in (before, after) if row is not None}
    audit.record(connection, AuditEntry(clock.now(), actor, action, name, _to_audit(before), _to_audit(after)))


def _to_audit(row: QueueRow | None) -> dict[str, object] | None:
    if row is None:
        return None
    since = row.paused_at.isoformat() if row.paused_at else None
    paused = {"paused_at": since, "paused_by": row.paused_by, "pause_note": row.pause_note}
    return {**paused, "created_by": row.created_by}


def _lock_row(connection: sa.Connection, name: str, now: dt.datetime) -> QueueRow:
    """Lock and return the row of a queue; insert the row if it does not exist yet."""
    _find(connection, name)
    queues.upsert_many(connection, [name], now)
    row = queues.get(connection, name, lock=True)
    assert row is not None, "it was added in this transaction, if it was not there before"
    return row


def _find(connection: sa.Connection, name: str) -> QueueRow:
    if not QUEUE_NAME_PATTERN.match(name):
        raise QueueNotFound(f"there is no queue {name[:64]!r}: the name of a queue must {QUEUE_NAME_FORM}")
    row = queues.get(connection, name)
    if row is None and name not in BUILTIN_QUEUES and name not in _list_served(connection):
        raise QueueNotFound(lookup.describe_missing_queue(name, lookup.list_existing_queues(connection)))
    return row or QueueRow(name)


def _list_uses(connection: sa.Connection, row: QueueRow) -> Iterator[str]:
    if row.name in BUILTIN_QUEUES:
        yield "it is shipped"
    if serving := _list_served(connection).count(row.name):
        yield f"{serving} live worker{'s consume' if serving > 1 else ' consumes'} it"
    if row.paused_at is not None:
        yield "it is paused, resume it first"
    yield from queues.list_uses(connection, row.name)


def _list_served(connection: sa.Connection) -> list[str]:
    """List the queues of all live workers; a queue occurs once for each of its workers."""
    return [name for worker in workers.list_live(connection) for name in worker.queues]


def _load_statuses(connection: sa.Connection, rows: Mapping[str, QueueRow]) -> list[QueueStatus]:
    published, running = queues.count_published(connection), queues.count_running(connection)
    serving = _list_served(connection)
    return [
        QueueStatus(
            row,
            *executions.get_queue_backlog(connection, name),
            published.get(name, 0),
            running.get(name, 0),
            serving.count(name),
        )
        for name, row in rows.items()
    ]
