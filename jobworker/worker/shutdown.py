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

from jobworker.worker.pool import forks

logger = structlog.get_logger(__name__)

Handler = Callable[[int, FrameType | None], Any]

#: The exit code of a worker that ends because it was told to.
_ALL_IS_WELL = 0


def stop_warmly() -> None:
    """Have the worker end when its jobs have ended. May be said again, and in a signal handler."""
    if state.should_stop is None and state.should_terminate is None:
        state.should_stop = _ALL_IS_WELL


def take_over_signals(consumer: Any) -> None:
    """Replace Celery's soft shutdown, once the worker is ready and Celery's own handlers are in place.

    Celery sleeps in the signal handler: meanwhile nobody beats for the worker, so it is given up, and nobody takes note
    of jobs that end, so they are interrupted although they are over.
    """
    worker = consumer.controller
    patience = worker.app.conf.worker_soft_shutdown_timeout
    worker.wait_for_soft_shutdown = _wait_for_nothing
    for number in {signal.SIGQUIT, signal.SIGTERM} if REMAP_SIGTERM == "SIGQUIT" else {signal.SIGQUIT}:
        cold = signal.getsignal(number)
        signal.signal(number, _softly(patience, cold) if forks(worker.pool) else _warmly)


def _softly(patience: float, cold: Any) -> Handler:
    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, cold)
        if patience <= 0:
            cold(number, frame)
            return
        logger.warning("worker_stops_softly", running=len(state.active_requests), seconds=patience)
        signal.signal(signal.SIGALRM, cold)
        signal.setitimer(signal.ITIMER_REAL, patience)
        stop_warmly()

    return handle


def _warmly(*_: Any) -> None:
    logger.warning("worker_stops_when_its_jobs_end", why="this pool cannot interrupt them")
    stop_warmly()


def _wait_for_nothing() -> None:
    """For Celery, which would sleep."""
