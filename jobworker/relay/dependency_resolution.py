"""Resolution of dependencies in a relay turn, and the maintenance tasks for batches and missed dependents."""

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain.workflows.dependency import ParentExecution
from jobworker.services.workflows import resolution
from jobworker.services.workflows.resolution import ResolutionResult
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation
from jobworker.store.workflows import batches, dependency_rows
from jobworker.store.workflows.batches import BatchRow

logger = structlog.get_logger(__name__)

#: Maximum number of parents, and of batches, that one round of the sweep reads.
_SWEEP_BATCH_SIZE = 500

#: Maximum number of members of a cancelled batch that one transaction ends.
_CANCEL_BATCH_SIZE = 1000


class DependencyResolver:
    """Resolves dependents of ended executions. Holds no durable state: the sweep finds unresolved dependents again."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._unresolved: Sequence[ParentExecution] = ()
        self._parent_cursor = self._batch_cursor = ""

    @property
    def has_pending(self) -> bool:
        """True if dependents are left to resolve although no event was read."""
        return bool(self._unresolved)

    def resolve_dependents(
        self, connection: sa.Connection, ended: Sequence[ParentExecution], now: dt.datetime
    ) -> ResolutionResult:
        """Resolve the dependents of these ended executions and of those left over from the last call.

        Call `mark_committed` with the result once the transaction is committed.
        """
        return resolution.resolve_dependents(connection, ended, now, self._unresolved)

    def mark_committed(self, released: ResolutionResult) -> None:
        """Keep the unresolved parents of a committed resolution for the next call."""
        self._unresolved = released.unfinished

    def cancel_batches(self) -> None:
        """Carry out requests to cancel batches, in one transaction; no member is dispatched afterwards."""
        with self._database.read() as connection:
            cancelling = batches.list_cancelling(connection)
        if not cancelling:
            return
        with self._database.write() as connection:
            for batch in cancelling:
                self._cancel_batch(connection, batch)

    def resolve_missed(self) -> None:
        """Find and resolve missed dependents and batches: left over from a dead relay, or from too long a chain."""
        with self._database.read() as connection:
            parents = dependency_rows.list_parents_after(connection, self._parent_cursor, _SWEEP_BATCH_SIZE)
            ended = dependency_rows.find_ended(connection, parents)
            opened = batches.list_open_after(connection, self._batch_cursor, _SWEEP_BATCH_SIZE)
            complete = [batch_id for batch_id in opened if not batches.has_unfinished(connection, batch_id)]
        self._parent_cursor = parents[-1] if len(parents) == _SWEEP_BATCH_SIZE else ""
        self._batch_cursor = opened[-1] if len(opened) == _SWEEP_BATCH_SIZE else ""
        pending = {parent.id for parent in self._unresolved}
        ended = [parent for parent in ended if parent.id not in pending]
        if ended or complete:
            logger.warning("unresolved_dependents", parents=len(ended), batches=len(complete))
            with self._database.write() as connection:
                released = resolution.resolve_missed(connection, ended, complete, self._clock.now())
            self._unresolved = [*self._unresolved, *released.unfinished]

    def _cancel_batch(self, connection: sa.Connection, batch: BatchRow) -> None:
        now, actor = self._clock.now(), batch.cancel_requested_by or "api"
        stopped = batches.request_cancel_members(connection, batch)
        idle = batches.list_waiting(connection, batch.id, _CANCEL_BATCH_SIZE)
        ended = cancellation.cancel_waiting(connection, idle, actor, f"its {batch.kind} was cancelled", now)
        resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, ended), now)
        logger.info("batch_cancelling", batch=batch.id, asked=stopped, ended=len(ended))
