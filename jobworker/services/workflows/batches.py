"""Use cases of batches and workflows: get, list, cancel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import BatchNotFound, ExecutionNotCancellable
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.ids import is_id
from jobworker.store import audit
from jobworker.store.audit import AuditEntry
from jobworker.store.database.database import Database
from jobworker.store.pagination import DEFAULT_LIMIT, Page
from jobworker.store.workflows import batches
from jobworker.store.workflows.batches import BatchKind, BatchRow, StepRow


@dataclass(frozen=True, slots=True)
class StepStatus:
    """A step, and the names of the steps that it needs."""

    row: StepRow
    needs: Sequence[str]


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """Current status of a batch; `steps` is set for a single workflow, not in a list."""

    row: BatchRow
    counts: Mapping[ExecutionState, int]
    steps: Sequence[StepStatus] | None = None

    @property
    def total(self) -> int:
        """Number of executions of the batch."""
        return sum(self.counts.values())

    @property
    def finished(self) -> int:
        """Number of executions of the batch that have ended."""
        return sum(number for state, number in self.counts.items() if state in FINAL_STATES)


def get(database: Database, batch_id: str) -> BatchStatus:
    """Return a batch. Raises `BatchNotFound`."""
    with database.read() as connection:
        return _load_status(connection, _find(connection, batch_id))


def list_page(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[BatchStatus]:
    """Return a page of batches, newest first, without their steps."""
    with database.read() as connection:
        page = batches.list_page(connection, limit, cursor)
        counts = batches.count_by_state(connection, [row.id for row in page.items])
    return page.replace_items([BatchStatus(row, counts[row.id]) for row in page.items])


def cancel(database: Database, clock: Clock, batch_id: str, actor: str) -> BatchStatus:
    """Request the cancellation of a batch; idempotent. Raises `ExecutionNotCancellable` if the batch has ended.

    After this commit the relay dispatches none of its executions; the relay cancels those that wait, and stops those
    that are queued or run.
    """
    now = clock.now()
    with database.write() as connection:
        newly_requested = batches.request_cancel(connection, batch_id, actor, now)
        row = _find(connection, batch_id)
        if row.cancel_requested_at is None:
            raise ExecutionNotCancellable(f"{row.kind} {batch_id} has ended already; nothing of it can be cancelled")
        if newly_requested:
            audit.record(connection, AuditEntry(now, actor, f"{row.kind}.cancel", batch_id, None, None))
        return _load_status(connection, row)


def _find(connection: sa.Connection, batch_id: str) -> BatchRow:
    row = batches.get(connection, batch_id) if is_id(batch_id) else None
    if row is None:
        raise BatchNotFound(f"there is no batch {batch_id[:40]!r}; GET /api/v1/batches lists the latest")
    return row


def _load_status(connection: sa.Connection, row: BatchRow) -> BatchStatus:
    counts = batches.count_by_state(connection, [row.id])[row.id]
    return BatchStatus(row, counts, _load_steps(connection, row) if row.kind is BatchKind.WORKFLOW else None)


def _load_steps(connection: sa.Connection, row: BatchRow) -> list[StepStatus]:
    steps = batches.list_steps(connection, row.id)
    names = {step.execution_id: step.step for step in steps}
    needs = batches.get_parents(connection, row.id)
    # A dependency outside of the workflow has no step name.
    return [
        StepStatus(step, [names.get(parent_id, parent_id) for parent_id in needs.get(step.execution_id, ())])
        for step in steps
    ]
