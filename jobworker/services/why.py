"""Why an execution has not run, or has not finished: every reason, from the gates that the relay asks."""

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import gates, limits
from jobworker.domain.errors import UnreadableRow
from jobworker.domain.execution import FINAL, State
from jobworker.domain.gates import Reason
from jobworker.services import executions as execution_services
from jobworker.store import dependencies, executions, jobs, queues, relay_state, unreadable, workers
from jobworker.store import limits as stored
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow
from jobworker.store.queues import QueueRow

#: Holders of places that are named.
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Why:
    """An execution, and all that it waits for; nothing, if it has ended."""

    execution: ExecutionRow
    blockers: tuple[Reason, ...]


def why(database: Database, clock: Clock, execution_id: str) -> Why:
    """Ask every gate; raises `ExecutionNotFound`."""
    with database.read() as connection:
        row = execution_services.find(connection, execution_id)
        found = _reasons(connection, row, clock.now()) if row.state not in FINAL else ()
        return Why(row, tuple(reason for reason in found if reason is not None))


def _reasons(connection: sa.Connection, row: ExecutionRow, now: dt.datetime) -> Iterator[Reason | None]:
    yield gates.unattended(relay_state.get(connection).turned_at, now)
    yield gates.cancelling(row.cancel_requested_at, row.cancel_requested_by)
    if row.state is State.RUNNING:
        yield gates.running(row.worker, row.started_at, row.attempt)
        return
    if row.state is State.WAITING:
        for parent in dependencies.of(connection, row.id, _MOST_NAMED, only_unsettled=True).items:
            yield gates.depends(parent.execution_id, parent.job, parent.state, parent.on)
    yield gates.not_due(row.state, row.due_at, row.attempt, row.max_attempts, row.reason)
    if row.attempt == 0:
        yield gates.expired(row.expires_at, now)
    yield gates.paused(queues.get(connection, row.queue) or QueueRow(row.queue))
    yield gates.blocked(row.task, row.queue, workers.live(connection))
    if row.state is State.QUEUED and row.dispatched_at is not None:
        others = queues.published(connection).get(row.queue, 1) - 1
        yield gates.with_workers(row.dispatched_at, row.queue, others)
    elif row.state is State.QUEUED:
        # Of a definition that cannot be read no limit is known; /readyz names it.
        with contextlib.suppress(UnreadableRow), unreadable.reading(f"job {row.job}"):
            yield from tuple(_limits(connection, row, now))
        yield _position(connection, row)


def _limits(connection: sa.Connection, row: ExecutionRow, now: dt.datetime) -> Iterator[Reason | None]:
    """What the definition says as it stands now, as for the relay."""
    policies = jobs.policies(connection, [row.job])[row.job]
    if row.concurrency_key and policies.get("concurrency"):
        policy, held = limits.parse_concurrency(policies["concurrency"]), stored.held(connection)
        holders = stored.holders(connection, row.concurrency_key, _MOST_NAMED)
        yield gates.full(policy, row.concurrency_key, held.get(row.concurrency_key, 0), holders)
        in_total = sum(count for key, count in held.items() if limits.job_of(key) == row.job)
        yield gates.full_in_total(policy, row.job, in_total, stored.holders(connection, row.job, _MOST_NAMED))
    if row.rate_key and policies.get("rate_limit"):
        rate = limits.parse_rate_limit(policies["rate_limit"])
        full_at = stored.buckets(connection, [row.rate_key]).get(row.rate_key)
        ahead = stored.ahead(connection, [row.rate_key]).get(row.rate_key, 0)
        yield gates.too_fast(rate, row.rate_key, full_at, ahead, now)


def _position(connection: sa.Connection, row: ExecutionRow) -> Reason:
    _, oldest = executions.ready_in(connection, row.queue)
    return gates.in_line(row.queue, executions.ready_before(connection, row), oldest or row.due_at)
