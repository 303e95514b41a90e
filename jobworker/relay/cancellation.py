"""Carries requests to cancel to the workers that run what is to be cancelled."""

from collections import defaultdict

import structlog

from jobworker.clock import Clock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.workflows import resolution
from jobworker.store.engine.database import Database
from jobworker.store.executions import cancellation, dependency_rows, executions
from jobworker.store.executions.cancellation import StartedCancelRequest
from jobworker.transport.stop_requests import StopRequest, StopRequests

logger = structlog.get_logger(__name__)

#: An order is repeated after so long (s), for as long as SQL shows the attempt as running: whatever loses it.
_REPEAT_INTERVAL_SECONDS = 5.0

_BATCH_SIZE = 1000


class StopRequestSender:
    """Gives orders, and repeats them until the execution has ended."""

    def __init__(self, database: Database, stop_requests: StopRequests, clock: Clock) -> None:
        self._database = database
        self._stop_requests = stop_requests
        self._clock = clock
        self._sent_at: dict[tuple[str, int], float] = {}

    def send_pending(self) -> None:
        """Tell workers what they do not know yet. Raises `redis.RedisError`."""
        with self._database.read() as connection:
            asked = cancellation.list_started_cancel_requests(connection, _BATCH_SIZE)
        given, now = self._sent_at, self._clock.monotonic()
        self._sent_at = {(row.id, row.attempt): given.get((row.id, row.attempt), float("-inf")) for row in asked}
        if between := [row for row in asked if row.state is ExecutionState.RETRYING]:
            self._cancel_retrying(between)
        orders = defaultdict(list)
        for row in asked:
            if (
                row.state is ExecutionState.RUNNING
                and now - self._sent_at[row.id, row.attempt] >= _REPEAT_INTERVAL_SECONDS
            ):
                orders[row.worker].append(StopRequest(row.id, row.attempt, row.actor))
        for worker, part in orders.items():
            self._stop_requests.publish(worker, part)
            self._sent_at.update({(order.execution, order.attempt): now for order in part})

    def _cancel_retrying(self, rows: list[StartedCancelRequest]) -> None:
        """The request came while the end of the attempt was written down."""
        with self._database.write() as connection:
            now = self._clock.now()
            for row in rows:
                reason = "cancelled before the next attempt"
                executions.cancel_waiting(connection, row.id, row.actor, reason, now)
            resolution.resolve_dependents(
                connection, dependency_rows.find_ended(connection, [row.id for row in rows]), now
            )
