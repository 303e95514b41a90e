"""Queues: creating and removing them, what waits in them, who serves them, and stopping them for a while."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain import described
from jobworker.domain.errors import FieldError, InvalidInput, QueueInUse, QueueNotFound
from jobworker.domain.job import QUEUE, QUEUE_FORM, SHIPPED_QUEUES
from jobworker.services import finding, naming
from jobworker.store import audit, executions, queues, workers
from jobworker.store.audit import AuditEntry
from jobworker.store.database import Database
from jobworker.store.pages import DEFAULT_LIMIT, Listing, Page, name_key
from jobworker.store.queues import QueueRow

logger = structlog.get_logger(__name__)

MAX_NOTE = 1000

#: How often the relay looks for queues that nothing uses (s).
REMOVE_EVERY = 600.0

#: A queue is removed when it was unused for so long: workers may be stopped meanwhile.
UNUSED_FOR = dt.timedelta(hours=1)

#: So many queues one round removes: it is one transaction, for which others wait.
_REMOVED_AT_ONCE = 5_000

#: So many of the removed queues are named in the log.
_TOLD = 10


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
    """Queues by name: those that are shipped, that a live worker serves, and that were declared or created."""
    listing = Listing("queues", {}, name_key)
    after = listing.parse_cursor(cursor)
    with database.read() as connection:
        known = {name: QueueRow(name) for name in {*SHIPPED_QUEUES, *_served(connection)}}
        known |= {row.name: row for row in queues.after(connection, after, limit + 1)}
        names = [name for name in sorted(known) if after is None or name > after][: limit + 1]
        return listing.build_page(
            _described(connection, {name: known[name] for name in names}), limit, lambda each: each.row.name
        )


def get(database: Database, name: str) -> Queue:
    """One queue; raises `QueueNotFound`."""
    with database.read() as connection:
        [found] = _described(connection, {name: _find(connection, name)})
        return found


def create(database: Database, clock: Clock, name: str, actor: str) -> tuple[Queue, bool]:
    """Create a queue, which stays until it is removed; whether there was none. Asking again changes nothing."""
    if not QUEUE.match(name):
        message = f"the name of a queue must {QUEUE_FORM}"
        raise InvalidInput(message, [FieldError("name", "not_allowed", message)])
    with database.write() as connection:
        row = queues.get(connection, name, lock=True)
        new = row is None and name not in SHIPPED_QUEUES
        if name not in SHIPPED_QUEUES and (row is None or row.created_by is None):
            queues.create(connection, name, actor, clock.now())
            _audit(connection, clock, actor, "queue.create", row, replace(row or QueueRow(name), created_by=actor))
    return get(database, name), new


def remove(database: Database, clock: Clock, name: str, actor: str) -> None:
    """Remove a queue that nothing uses; raises `QueueInUse` with everything that does."""
    with database.write() as connection:
        row = queues.get(connection, name, lock=True) if QUEUE.match(name) else None
        row = row or _find(connection, name)
        used = list(_uses(connection, row))
        if used:
            raise QueueInUse(f"queue {name} cannot be removed: {'; '.join(used)}")
        queues.delete(connection, name)
        _audit(connection, clock, actor, "queue.remove", row, None)


def remove_unused(database: Database, clock: Clock) -> None:
    """Remove queues that were added automatically and that nothing uses any more: one bounded round."""
    now = clock.now()
    with database.write() as connection:
        kept = {*SHIPPED_QUEUES, *_served(connection)}
        removed = queues.remove_unused(connection, kept, now, now - UNUSED_FOR, _REMOVED_AT_ONCE)
    if removed:
        logger.info("queues_removed", count=len(removed), first=removed[:_TOLD], why=f"unused for {UNUSED_FOR}")


def pause(database: Database, clock: Clock, name: str, actor: str, note: str | None) -> Queue:
    """Let nothing more of a queue start. The first actor is kept; a note replaces the one before."""
    described.require_note(note)
    with database.write() as connection:
        row = _locked(connection, name, clock.now())
        by, at = row.paused_by or actor, row.paused_at or clock.now()
        note = note if note is not None else row.pause_note
        _change(connection, row, replace(row, paused_at=at, paused_by=by, pause_note=note), actor, clock)
    return get(database, name)


def resume(database: Database, clock: Clock, name: str, actor: str) -> Queue:
    """The inverse; a queue that is not paused stays as it is."""
    with database.write() as connection:
        row = _locked(connection, name, clock.now())
        _change(connection, row, replace(row, paused_at=None, paused_by=None, pause_note=None), actor, clock)
    return get(database, name)


def _change(connection: sa.Connection, before: QueueRow, after: QueueRow, actor: str, clock: Clock) -> None:
    if before != after:
        queues.pause(connection, after)
        _audit(connection, clock, actor, "queue.pause" if after.paused_at else "queue.resume", before, after)


def _audit(
    connection: sa.Connection, clock: Clock, actor: str, action: str, before: QueueRow | None, after: QueueRow | None
) -> None:
    [name] = {row.name for row in (before, after) if row is not None}
    audit.record(connection, AuditEntry(clock.now(), actor, action, name, _told(before), _told(after)))


def _told(row: QueueRow | None) -> dict[str, object] | None:
    if row is None:
        return None
    since = row.paused_at.isoformat() if row.paused_at else None
    paused = {"paused_at": since, "paused_by": row.paused_by, "pause_note": row.pause_note}
    return {**paused, "created_by": row.created_by}


def _locked(connection: sa.Connection, name: str, now: dt.datetime) -> QueueRow:
    """The row of a queue, which it gets now if it has none yet."""
    _find(connection, name)
    queues.remember(connection, [name], now)
    row = queues.get(connection, name, lock=True)
    assert row is not None, "it was added in this transaction, if it was not there before"
    return row


def _find(connection: sa.Connection, name: str) -> QueueRow:
    if not QUEUE.match(name):
        raise QueueNotFound(f"there is no queue {name[:64]!r}: the name of a queue must {QUEUE_FORM}")
    row = queues.get(connection, name)
    if row is None and name not in SHIPPED_QUEUES and name not in _served(connection):
        raise QueueNotFound(naming.missing_queue(name, finding.existing_queues(connection)))
    return row or QueueRow(name)


def _uses(connection: sa.Connection, row: QueueRow) -> Iterator[str]:
    if row.name in SHIPPED_QUEUES:
        yield "it is shipped"
    if serving := _served(connection).count(row.name):
        yield f"{serving} live worker{'s consume' if serving > 1 else ' consumes'} it"
    if row.paused_at is not None:
        yield "it is paused, resume it first"
    yield from queues.uses(connection, row.name)


def _served(connection: sa.Connection) -> list[str]:
    """The queues of live workers, of each worker its own."""
    return [name for worker in workers.live(connection) for name in worker.queues]


def _described(connection: sa.Connection, known: Mapping[str, QueueRow]) -> list[Queue]:
    published, running = queues.published(connection), queues.running(connection)
    serving = _served(connection)
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
