"""Use cases of executions: get, list, wait for the end, cancel."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import ExecutionNotCancellable, ExecutionNotFinished, ExecutionNotFound
from jobworker.domain.executions import blockers
from jobworker.domain.executions.blockers import Blocker
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.ids import is_id
from jobworker.services.schedules import schedules
from jobworker.services.workflows import resolution
from jobworker.store import queues, workers
from jobworker.store.database.database import Database
from jobworker.store.executions import executions, timeline
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.timeline import AttemptRow, LogRow, TransitionRow
from jobworker.store.pagination import DEFAULT_LIMIT, Page
from jobworker.store.workers import WorkerRow
from jobworker.store.workflows import dependency_rows
from jobworker.store.workflows.dependency_rows import ParentRow

#: First and maximum interval between polls of SQL while waiting for the end of an execution (s); the interval grows.
_FIRST_POLL_SECONDS = 0.02
_MAX_POLL_SECONDS = 0.25


def get(database: Database, execution_id: str) -> ExecutionRow:
    """Return an execution. Raises `ExecutionNotFound`."""
    with database.read() as connection:
        row = find(connection, execution_id)
        return _add_reasons(connection, [row])[0]


def get_result(database: Database, execution_id: str) -> ExecutionRow:
    """Return an execution that has ended. Raises `ExecutionNotFinished`."""
    row = get(database, execution_id)
    if row.state not in FINAL_STATES:
        raise ExecutionNotFinished(f"execution {execution_id} is {row.state}; its result is there when it has ended")
    return row


def list_page(
    database: Database,
    filters: ExecutionFilters,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    schedule: str | None = None,
) -> Page[ExecutionRow]:
    """Return a page of the executions that match the filters, newest first.

    `schedule` is the name or id of a schedule. Raises `ScheduleNotFound`.
    """
    with database.read() as connection:
        if schedule is not None:
            filters = replace(filters, schedule_id=schedules.find_reference(connection, schedule).id)
        page = executions.list_page(connection, filters, limit, cursor)
        return page.replace_items(_add_reasons(connection, page.items))


def list_attempts(
    database: Database, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[AttemptRow]:
    """Return a page of the attempts that workers started."""
    with database.read() as connection:
        find(connection, execution_id)
        return timeline.list_attempts(connection, execution_id, limit, cursor)


def list_transitions(
    database: Database, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[TransitionRow]:
    """Return a page of the state transitions, each with time, reason and actor."""
    with database.read() as connection:
        find(connection, execution_id)
        return timeline.list_transitions(connection, execution_id, limit, cursor)


def list_parents(
    database: Database, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[ParentRow]:
    """Return a page of the executions that this one depends on, resolved dependencies included."""
    with database.read() as connection:
        find(connection, execution_id)
        return dependency_rows.list_parents(connection, execution_id, limit, cursor)


def list_log_lines(
    database: Database, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[LogRow]:
    """Return a page of the log lines of the execution."""
    with database.read() as connection:
        find(connection, execution_id)
        return timeline.list_logs(connection, execution_id, limit, cursor)


def wait_for_end(database: Database, clock: Clock, execution_id: str, seconds: float) -> ExecutionRow:
    """Return the execution when it has ended, or its current state after `seconds`."""
    deadline = clock.monotonic() + seconds
    pause = _FIRST_POLL_SECONDS
    nothing = threading.Event()
    while True:
        with database.read() as connection:
            state = executions.get_state(connection, execution_id)
        remaining_seconds = deadline - clock.monotonic()
        if state is None or state in FINAL_STATES or remaining_seconds <= 0:
            return get(database, execution_id)
        clock.wait(nothing, min(pause, remaining_seconds))
        pause = min(pause * 1.5, _MAX_POLL_SECONDS)


def cancel(database: Database, clock: Clock, execution_id: str, actor: str) -> ExecutionRow:
    """Cancel an execution before it starts, or request that its attempt stops; idempotent.

    A Waiting, Scheduled or Retrying execution is cancelled here. The message of a queued one may be in Redis already:
    the relay revokes it before it writes Cancelled. A running one is stopped by its worker. Until then
    `cancel_requested_at` is set. Raises `ExecutionNotCancellable` if the execution has ended otherwise.
    """
    now = clock.now()
    with database.write() as connection:
        row = find(connection, execution_id, lock=True)
        if row.state in (ExecutionState.QUEUED, ExecutionState.RUNNING):
            executions.request_cancel(connection, execution_id, actor, now)
        elif row.state is not ExecutionState.CANCELLED:
            if not executions.cancel_waiting(connection, execution_id, actor, f"cancelled by {actor}", now):
                raise ExecutionNotCancellable(f"execution {row.id} has ended already: {row.state}")
            resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, [execution_id]), now)
        return find(connection, execution_id)


def find(connection: sa.Connection, execution_id: str, lock: bool = False) -> ExecutionRow:
    """Return the row of an execution. Raises `ExecutionNotFound`."""
    row = executions.get(connection, execution_id, lock) if is_id(execution_id) else None
    if row is None:
        raise ExecutionNotFound(f"there is no execution {execution_id[:40]!r}; GET /api/v1/executions lists the latest")
    return row


def _add_reasons(connection: sa.Connection, rows: Sequence[ExecutionRow]) -> Sequence[ExecutionRow]:
    """Return the rows; queued ones get a reason if their queue is paused or no live worker can run them."""
    used = {row.queue for row in rows if row.state is ExecutionState.QUEUED}
    if not used:
        return rows
    live = workers.list_live(connection)
    stopped = {
        queue.name: reason
        for queue in queues.find_paused(connection, used)
        if (reason := blockers.detect_queue_pause(queue))
    }
    return [_add_reason(row, stopped, live) if row.state is ExecutionState.QUEUED else row for row in rows]


def _add_reason(
    row: ExecutionRow, paused_reasons: Mapping[str, Blocker], live_workers: Sequence[WorkerRow]
) -> ExecutionRow:
    reason = paused_reasons.get(row.queue) or blockers.detect_missing_worker(row.task, row.queue, live_workers)
    return replace(row, reason=reason.message) if reason else row
