"""Delivery of cancellation requests to the workers that run the executions."""

from collections import defaultdict

import structlog

from jobworker.clock import Clock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.workflows import resolution
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation, executions
from jobworker.store.executions.cancellation import StartedCancelRequest
from jobworker.store.workflows import dependency_rows
from jobworker.transport.stop_requests import StopRequest, StopRequests

logger = structlog.get_logger(__name__)

#: Interval between repetitions of a stop request (s), as long as SQL shows the attempt as running: any of them may be
#: lost.
_REPEAT_INTERVAL_SECONDS = 5.0

_BATCH_SIZE = 1000


class StopRequestSender:
    """Sends stop requests, and repeats them until the execution has ended."""

    def __init__(self, database: Database, stop_requests: StopRequests, clock: Clock) -> None:
        self._database = database
        self._stop_requests = stop_requests
        self._clock = clock
        self._sent_at: dict[tuple[str, int], float] = {}

    def send_pending(self) -> None:
        """Send the stop requests that are new or due for repetition. Raises `redis.RedisError`."""
        with self._database.read() as connection:
            requested = cancellation.list_started_cancel_requests(connection, _BATCH_SIZE)
        sent_at, now = self._sent_at, self._clock.monotonic()
        self._sent_at = {(row.id, row.attempt): sent_at.get((row.id, row.attempt), float("-inf")) for row in requested}
        if retrying := [row for row in requested if row.state is ExecutionState.RETRYING]:
            self._cancel_retrying(retrying)
        requests = defaultdict(list)
        for row in requested:
            if (
                row.state is ExecutionState.RUNNING
                and now - self._sent_at[row.id, row.attempt] >= _REPEAT_INTERVAL_SECONDS
            ):
                requests[row.worker].append(StopRequest(row.id, row.attempt, row.actor))
        for worker, part in requests.items():
            self._stop_requests.publish(worker, part)
            self._sent_at.update({(request.execution, request.attempt): now for request in part})

    def _cancel_retrying(self, rows: list[StartedCancelRequest]) -> None:
        """Cancel executions whose request arrived while the end of their attempt was being recorded."""
        with self._database.write() as connection:
            now = self._clock.now()
            for row in rows:
                reason = "cancelled before the next attempt"
                executions.cancel_waiting(connection, row.id, row.actor, reason, now)
            resolution.resolve_dependents(
                connection, dependency_rows.find_ended(connection, [row.id for row in rows]), now
            )
