"""What the worker's parent process knows of a message: the ends that a job cannot report itself."""

from typing import Any

import redis
import structlog
from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import WorkerLostError
from celery.worker import state
from celery.worker.request import Request

from jobworker.worker import runner as ends
from jobworker.worker.delivery import HEADER, TOKEN_HEADER, Delivery, new_token
from jobworker.worker.outcome import Outcome
from jobworker.worker.task import JobTask

logger = structlog.get_logger(__name__)

#: Ends that Redis was not there to hear; told again with the next heartbeat.
_untold: list[tuple[Delivery, Outcome]] = []


class JobRequest(Request):
    """Numbers each delivery, and reports hard limits, lost processes and revocations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        token = self._request_dict[TOKEN_HEADER] = new_token()
        self.delivery = Delivery.read(self._request_dict.get(HEADER), token)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A limit passed. The soft one is the job's to report, the hard one ours."""
        if not soft:
            self._tell(ends.hard_limit(timeout))
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """The job failed (it told so itself) or its process is gone (it could not)."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt | MemoryError):
            self._tell(ends.process_gone(str(error) or type(error).__name__))
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        self._tell(ends.revoked(reason))
        super()._announce_revoked(reason, terminated, signum, expired)

    def _tell(self, ended: Outcome) -> None:
        if self.delivery is not None:
            _untold.append((self.delivery, ended))
            tell_untold()


def tell_untold() -> None:
    """Report the ends that are still owed; those that Redis does not take now stay owed."""
    runner = JobTask.runner
    if runner is None:
        return
    while _untold:
        try:
            runner.report_from_outside(*_untold[0])
        except redis.RedisError as error:
            logger.warning("redis_away", error=str(error), owed=len(_untold))
            return
        _untold.pop(0)


def running() -> list[Delivery]:
    """What this worker runs at present."""
    while True:
        try:
            requests = list(state.active_requests)
        except RuntimeError:
            continue  # In a pool of threads the set may change while it is copied.
        return [request.delivery for request in requests if getattr(request, "delivery", None)]
