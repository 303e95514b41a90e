"""Bulk cancellation of executions."""

from collections.abc import Sequence

from jobworker.clock import Clock
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.services.bulk import actions
from jobworker.services.bulk.actions import BulkAction, BulkResult, ChunkResult, Selection
from jobworker.services.workflows import resolution
from jobworker.store import audit
from jobworker.store.audit import AuditEntry
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation
from jobworker.store.tables import core
from jobworker.store.workflows import dependency_rows

_CANCEL_ACTION = BulkAction(
    "cancel", [core.executions.c.state.in_(cancellation.UNFINISHED_STATES)], "not_cancellable", "has ended already"
)


def cancel_executions(database: Database, clock: Clock, selection: Selection, actor: str) -> BulkResult:
    """Cancel the selected executions that have not ended.

    Waiting, Scheduled and Retrying executions become Cancelled here. For queued and running ones a cancellation is
    requested, which the relay carries out.
    """
    requested_state = selection.filters and selection.filters.state
    if requested_state in FINAL_STATES:
        message = f"state {requested_state} is final; only what has not ended can be cancelled"
        raise InvalidInput(message, [FieldError("/filter/state", "not_allowed", message)])
    now = clock.now()

    def work(ids: Sequence[str]) -> ChunkResult:
        if selection.dry_run:
            return ChunkResult(dict.fromkeys(ids))
        with database.write() as connection:
            cancelled = cancellation.cancel_waiting(connection, ids, actor, f"cancelled by {actor}", now)
            requested_ids = cancellation.request_cancel(connection, ids, actor, now)
            resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, cancelled), now)
            if cancelled or requested_ids:
                details = {"cancelled": cancelled, "asked": requested_ids}
                audit.record(connection, AuditEntry(now, actor, "executions.cancel", "executions", None, details))
        return ChunkResult(dict.fromkeys(sorted([*cancelled, *requested_ids])))

    return actions.run_in_chunks(database, _CANCEL_ACTION, selection, work)
