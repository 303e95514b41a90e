"""Blockers of an execution: all reasons why it does not run or has not finished, as the relay determines them."""

import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import UnreadableRow
from jobworker.domain.executions import blockers
from jobworker.domain.executions.blockers import Blocker
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.jobs import limits
from jobworker.services.executions import executions as execution_services
from jobworker.store import jobs, queues, relay_state, unreadable_rows, workers
from jobworker.store.database.database import Database
from jobworker.store.executions import executions, limit_usage
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.queues import QueueRow
from jobworker.store.workflows import dependency_rows

#: Maximum number of parents, and of slot holders, that a report names.
_MAX_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ExecutionBlockers:
    """An execution and its blockers (none if the execution has ended)."""

    execution: ExecutionRow
    blockers: tuple[Blocker, ...]


def explain_execution(database: Database, clock: Clock, execution_id: str) -> ExecutionBlockers:
    """Return an execution with all of its blockers. Raises `ExecutionNotFound`."""
    with database.read() as connection:
        row = execution_services.find(connection, execution_id)
        possible_blockers = _find_blockers(connection, row, clock.now()) if row.state not in FINAL_STATES else ()
        return ExecutionBlockers(row, tuple(blocker for blocker in possible_blockers if blocker is not None))


def _find_blockers(connection: sa.Connection, row: ExecutionRow, now: dt.datetime) -> Iterator[Blocker | None]:
    yield blockers.detect_missing_relay(relay_state.get(connection).turned_at, now)
    yield blockers.detect_cancellation(row.cancel_requested_at, row.cancel_requested_by)
    if row.state is ExecutionState.RUNNING:
        yield blockers.describe_running_attempt(row.worker, row.started_at, row.attempt)
        return
    if row.state is ExecutionState.WAITING:
        for parent in dependency_rows.list_parents(connection, row.id, _MAX_NAMES_SHOWN, only_unresolved=True).items:
            yield blockers.describe_dependency(parent.execution_id, parent.job, parent.state, parent.on)
    yield blockers.detect_not_due(row.state, row.due_at, row.attempt, row.max_attempts, row.reason)
    if row.attempt == 0:
        yield blockers.detect_expiry(row.expires_at, now)
    yield blockers.detect_queue_pause(queues.get(connection, row.queue) or QueueRow(row.queue))
    yield blockers.detect_missing_worker(row.task, row.queue, workers.list_live(connection))
    if row.state is ExecutionState.QUEUED and row.dispatched_at is not None:
        others = queues.count_published(connection).get(row.queue, 1) - 1
        yield blockers.describe_wait_for_worker(row.dispatched_at, row.queue, others)
    elif row.state is ExecutionState.QUEUED:
        # The limits of an unreadable definition are unknown; /readyz names the definition.
        with contextlib.suppress(UnreadableRow), unreadable_rows.convert_errors(f"job {row.job}"):
            yield from tuple(_find_limit_blockers(connection, row, now))
        yield _find_queue_blocker(connection, row)


def _find_limit_blockers(connection: sa.Connection, row: ExecutionRow, now: dt.datetime) -> Iterator[Blocker | None]:
    """Yield the limits that block the execution, by the current job definition, which the relay uses too."""
    policies = jobs.get_definitions(connection, [row.job])[row.job]
    if row.concurrency_key and policies.get("concurrency"):
        policy, held = limits.parse_concurrency(policies["concurrency"]), limit_usage.count_held_slots(connection)
        holders = limit_usage.list_slot_holders(connection, row.concurrency_key, _MAX_NAMES_SHOWN)
        yield blockers.detect_concurrency_limit(policy, row.concurrency_key, held.get(row.concurrency_key, 0), holders)
        in_total = sum(count for key, count in held.items() if limits.get_job_name(key) == row.job)
        yield blockers.detect_total_concurrency_limit(
            policy, row.job, in_total, limit_usage.list_slot_holders(connection, row.job, _MAX_NAMES_SHOWN)
        )
    if row.rate_key and policies.get("rate_limit"):
        rate = limits.parse_rate_limit(policies["rate_limit"])
        full_at = limit_usage.get_rate_buckets(connection, [row.rate_key]).get(row.rate_key)
        ahead = limit_usage.count_published(connection, [row.rate_key]).get(row.rate_key, 0)
        yield blockers.detect_rate_limit(rate, row.rate_key, full_at, ahead, now)


def _find_queue_blocker(connection: sa.Connection, row: ExecutionRow) -> Blocker:
    _, oldest = executions.get_queue_backlog(connection, row.queue)
    return blockers.describe_queue_position(
        row.queue, executions.count_ready_before(connection, row), oldest or row.due_at
    )
