"""The poller of stop requests: a worker with running attempts reads its stop requests once a second."""

from typing import Any

import redis
import structlog
from celery.worker import state

from jobworker.transport.claims import Claim
from jobworker.transport.stop_requests import StopRequest, StopRequests
from jobworker.worker.attempt.runner import AttemptRunner
from jobworker.worker.celery.pool import is_prefork
from jobworker.worker.celery.request import JobRequest
from jobworker.worker.celery.task import JobTask
from jobworker.worker.periodic_step import PeriodicStep

logger = structlog.get_logger(__name__)

#: Interval between polls (s), and number of polls skipped after a Redis error, so that a frozen Redis does not block
#: the event loop each time.
_POLL_INTERVAL_SECONDS = 1.0
_POLLS_SKIPPED_ON_ERROR = 5


class StopRequestPoller:
    """The poller of the stop requests of one worker. `poll` is called by a timer and must not raise."""

    def __init__(self, runner: AttemptRunner, is_prefork: bool) -> None:
        self._runner = runner
        self._stop_requests = StopRequests(runner.redis_connection.client)
        self._is_prefork = is_prefork
        self._polls_to_skip = 0

    def poll(self) -> None:
        """Read the stop requests of this worker and carry them out."""
        if self._polls_to_skip:
            self._polls_to_skip -= 1
            return
        held = {ticket.execution: ticket for ticket in [*self._runner.mailbox.delivered.values()] if ticket}
        if not held:
            return
        try:
            orders = self._stop_requests.list_for_worker(self._runner.worker)
            mine = {each: held[each.execution] for each in orders if _is_for_claim(each, held.get(each.execution))}
            if strange := [each for each in orders if each not in mine]:
                self._stop_requests.delete(self._runner.worker, strange)
        except redis.RedisError as error:
            logger.warning("stop_requests_not_read", error=str(error))
            self._polls_to_skip = _POLLS_SKIPPED_ON_ERROR
            return
        for order, ticket in mine.items():
            self._stop_attempt(order, ticket)

    def _stop_attempt(self, stop_request: StopRequest, claim: Claim) -> None:
        if not self._is_prefork:
            self._runner.control_table.mark_cancelled(claim.token, None)
        elif request := next((each for each in [*state.active_requests] if _has_claim(each, claim)), None):
            self._runner.time_limits.stop_attempt(request, stop_request.requested_by)


def _is_for_claim(stop_request: StopRequest, claim: Claim | None) -> bool:
    return claim is not None and claim.attempt == stop_request.attempt


def _has_claim(request: Any, claim: Claim) -> bool:
    return isinstance(request, JobRequest) and request.token == claim.token


class StopRequestStep(PeriodicStep):
    """The consumer step that polls for stop requests and attaches the time limits to the event loop."""

    def start(self, consumer: Any) -> None:
        """Begin to poll."""
        runner = JobTask.runner
        if runner is None:
            return
        self.cancel()
        if is_prefork(consumer.pool):
            runner.time_limits.attach_to_loop(consumer.hub, consumer.pool._pool)
        self.run_periodically(
            consumer, _POLL_INTERVAL_SECONDS, StopRequestPoller(runner, is_prefork(consumer.pool)).poll, "orders"
        )
