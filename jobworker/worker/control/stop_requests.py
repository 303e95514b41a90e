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
        claims = {claim.execution: claim for claim in [*self._runner.in_flight.delivered.values()] if claim}
        if not claims:
            return
        try:
            requests = self._stop_requests.list_for_worker(self._runner.worker)
            current = {
                stop_request: claims[stop_request.execution]
                for stop_request in requests
                if _is_for_claim(stop_request, claims.get(stop_request.execution))
            }
            if outdated := [stop_request for stop_request in requests if stop_request not in current]:
                self._stop_requests.delete(self._runner.worker, outdated)
        except redis.RedisError as error:
            logger.warning("stop_requests_not_read", error=str(error))
            self._polls_to_skip = _POLLS_SKIPPED_ON_ERROR
            return
        for request, claim in current.items():
            self._stop_attempt(request, claim)

    def _stop_attempt(self, stop_request: StopRequest, claim: Claim) -> None:
        if not self._is_prefork:
            self._runner.control_table.mark_cancelled(claim.token, None)
        elif request := next(
            (active_request for active_request in [*state.active_requests] if _has_claim(active_request, claim)), None
        ):
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
