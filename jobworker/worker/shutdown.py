"""How a worker ends when it is told to.

SIGTERM: it takes nothing new and ends when its jobs have ended (warm). SIGQUIT: the same, but what still runs after
`worker_soft_shutdown_timeout` is interrupted (soft), and at once if that is 0, or with a second SIGQUIT (cold). Threads
cannot be interrupted, and neither can solo's one: there SIGQUIT is no more than SIGTERM.
"""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
from celery.apps.worker import REMAP_SIGTERM
from celery.worker import state

from jobworker.worker.celery.pool import is_prefork

logger = structlog.get_logger(__name__)

SignalHandler = Callable[[int, FrameType | None], Any]

#: The exit code of a worker that ends because it was told to.
_EXIT_SUCCESS = 0


def request_warm_shutdown() -> None:
    """Have the worker end when its jobs have ended. May be said again, and in a signal handler."""
    if state.should_stop is None and state.should_terminate is None:
        state.should_stop = _EXIT_SUCCESS


def install_signal_handlers(consumer: Any) -> None:
    """Replace Celery's soft shutdown, once the worker is ready and Celery's own handlers are in place.

    Celery sleeps in the signal handler: meanwhile nobody beats for the worker, so it is given up, and nobody takes note
    of jobs that end, so they are interrupted although they are over.
    """
    worker = consumer.controller
    patience = worker.app.conf.worker_soft_shutdown_timeout
    worker.wait_for_soft_shutdown = _skip_soft_shutdown_wait
    for number in {signal.SIGQUIT, signal.SIGTERM} if REMAP_SIGTERM == "SIGQUIT" else {signal.SIGQUIT}:
        cold = signal.getsignal(number)
        signal.signal(
            number, _make_soft_shutdown_handler(patience, cold) if is_prefork(worker.pool) else _handle_warm_shutdown
        )


def _make_soft_shutdown_handler(timeout: float, cold_handler: Any) -> SignalHandler:
    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, cold_handler)
        if timeout <= 0:
            cold_handler(number, frame)
            return
        logger.warning("worker_stops_softly", running=len(state.active_requests), seconds=timeout)
        signal.signal(signal.SIGALRM, cold_handler)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        request_warm_shutdown()

    return handle


def _handle_warm_shutdown(*_: Any) -> None:
    logger.warning("worker_stops_when_its_jobs_end", why="this pool cannot interrupt them")
    request_warm_shutdown()


def _skip_soft_shutdown_wait() -> None:
    """For Celery, which would sleep."""
