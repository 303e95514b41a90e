"""Executions: read them, follow them, stop them."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import gates
from jobworker.domain.errors import ExecutionNotFound, NotCancellable, NotFinished
from jobworker.domain.execution import FINAL, State
from jobworker.domain.gates import Reason
from jobworker.domain.ids import is_id
from jobworker.services import release, schedules
from jobworker.store import dependencies, executions, queues, story, workers
from jobworker.store.database import Database
from jobworker.store.dependencies import ParentRow
from jobworker.store.executions import ExecutionRow
from jobworker.store.filters import Filters
from jobworker.store.pages import DEFAULT_LIMIT, Page
from jobworker.store.story import AttemptRow, LogRow, TransitionRow
from jobworker.store.workers import WorkerRow

#: While waiting, SQL is asked after so many seconds, then less and less often up to the longest pause.
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.25


def get(database: Database, execution_id: str) -> ExecutionRow:
    """One execution; raises `ExecutionNotFound`."""
    with database.read() as connection:
        row = find(connection, execution_id)
        return _explained(connection, [row])[0]


def result(database: Database, execution_id: str) -> ExecutionRow:
    """An execution that has ended; raises `NotFinished`."""
    row = get(database, execution_id)
    if row.state not in FINAL:
        raise NotFinished(f"execution {execution_id} is {row.state}; its result is there when it has ended")
    return row


def page(
    database: Database,
    filters: Filters,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    schedule: str | None = None,
) -> Page[ExecutionRow]:
    """Executions that pass the filters, newest first; those of one schedule by its name, or id.

    Raises `ScheduleNotFound`.
    """
    with database.read() as connection:
        if schedule is not None:
            filters = replace(filters, schedule_id=schedules.kept(connection, schedule).id)
        found = executions.page(connection, filters, limit, cursor)
        return found.replace_items(_explained(connection, found.items))


def attempts(
    database: Database, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[AttemptRow]:
    """The attempts that workers started."""
    with database.read() as connection:
        find(connection, execution_id)
        return story.attempts(connection, execution_id, limit, cursor)


def transitions(
    database: Database, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[TransitionRow]:
    """Every change of state, with time, reason and actor."""
    with database.read() as connection:
        find(connection, execution_id)
        return story.transitions_page(connection, execution_id, limit, cursor)


def parents(
    database: Database, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[ParentRow]:
    """What the execution waits or waited for."""
    with database.read() as connection:
        find(connection, execution_id)
        return dependencies.of(connection, execution_id, limit, cursor)


def logs(database: Database, execution_id: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[LogRow]:
    """What the job wrote."""
    with database.read() as connection:
        find(connection, execution_id)
        return story.logs(connection, execution_id, limit, cursor)


def wait(database: Database, clock: Clock, execution_id: str, seconds: float) -> ExecutionRow:
    """The execution once it has ended, or as it stands after so many seconds."""
    deadline = clock.monotonic() + seconds
    pause = _FIRST_PAUSE
    nothing = threading.Event()
    while True:
        with database.read() as connection:
            state = executions.state(connection, execution_id)
        left = deadline - clock.monotonic()
        if state is None or state in FINAL or left <= 0:
            return get(database, execution_id)
        clock.wait(nothing, min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def cancel(database: Database, clock: Clock, execution_id: str, actor: str) -> ExecutionRow:
    """Make sure that an execution does not start, or stops; asking again changes nothing.

    One that waits for its time is cancelled here. One that is queued may be in Redis already, so the
    relay revokes it there before it says Cancelled, and one that runs is stopped by its worker; until then
    `cancel_requested_at` is set.
    """
    now = clock.now()
    with database.write() as connection:
        row = find(connection, execution_id, lock=True)
        if row.state in (State.QUEUED, State.RUNNING):
            executions.request_cancel(connection, execution_id, actor, now)
        elif row.state is not State.CANCELLED:
            if not executions.cancel_waiting(connection, execution_id, actor, f"cancelled by {actor}", now):
                raise NotCancellable(f"execution {row.id} has ended already: {row.state}")
            release.release(connection, dependencies.ended(connection, [execution_id]), now)
        return find(connection, execution_id)


def find(connection: sa.Connection, execution_id: str, lock: bool = False) -> ExecutionRow:
    """The row of an execution; raises `ExecutionNotFound`."""
    row = executions.get(connection, execution_id, lock) if is_id(execution_id) else None
    if row is None:
        raise ExecutionNotFound(f"there is no execution {execution_id[:40]!r}; GET /api/v1/executions lists the latest")
    return row


def _explained(connection: sa.Connection, rows: Sequence[ExecutionRow]) -> Sequence[ExecutionRow]:
    """The rows, each queued one with the reason why it cannot run now, where it is easily told."""
    used = {row.queue for row in rows if row.state is State.QUEUED}
    if not used:
        return rows
    live = workers.live(connection)
    stopped = {queue.name: reason for queue in queues.paused(connection, used) if (reason := gates.paused(queue))}
    return [_with_reason(row, stopped, live) if row.state is State.QUEUED else row for row in rows]


def _with_reason(row: ExecutionRow, stopped: Mapping[str, Reason], live: Sequence[WorkerRow]) -> ExecutionRow:
    reason = stopped.get(row.queue) or gates.blocked(row.task, row.queue, live)
    return replace(row, reason=reason.message) if reason else row
