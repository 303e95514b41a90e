"""Shutdown of a worker by signals.

SIGTERM: the worker fetches nothing and ends when its jobs have ended (warm). SIGQUIT: the worker does that, too, but
interrupts jobs that still run after `worker_soft_shutdown_timeout` (soft), or at once if that is 0 or a second SIGQUIT
arrives (cold). Threads cannot be interrupted, and neither can the single thread of the solo pool: there SIGQUIT has the
effect of SIGTERM.
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

#: Exit code of a worker that ends on request.
_EXIT_SUCCESS = 0


def request_warm_shutdown() -> None:
    """Make the worker end when its jobs have ended. May be called repeatedly, and in a signal handler."""
    if state.should_stop is None and state.should_terminate is None:
        state.should_stop = _EXIT_SUCCESS


def install_signal_handlers(consumer: Any) -> None:
    """Replace Celery's soft shutdown, once the worker is ready and Celery's own handlers are in place.

    Celery sleeps in the signal handler. Meanwhile the worker sends no heartbeats, so it is declared dead, and does not
    notice that jobs end, so jobs that are over are interrupted.
    """
    worker = consumer.controller
    timeout = worker.app.conf.worker_soft_shutdown_timeout
    worker.wait_for_soft_shutdown = _skip_soft_shutdown_wait
    for number in {signal.SIGQUIT, signal.SIGTERM} if REMAP_SIGTERM == "SIGQUIT" else {signal.SIGQUIT}:
        cold = signal.getsignal(number)
        signal.signal(
            number, _make_soft_shutdown_handler(timeout, cold) if is_prefork(worker.pool) else _handle_warm_shutdown
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
    """Do nothing, where Celery would sleep."""
