"""Periodic actions of a connected worker.

They run in the event loop where the pool forks, because threads and fork do not mix, and in a thread otherwise.
"""

import threading
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.worker import state

from jobworker.worker.celery.pool import is_prefork


class PeriodicStep(bootsteps.StartStopStep):
    """A consumer step whose `start` calls `run_periodically`, again after each reconnection."""

    # An early step, because later ones (mingle) take a second while the lease runs.
    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer_entry: Any = None
        self._stopped = threading.Event()

    def run_periodically(self, consumer: Any, interval: float, action: Callable[[], None], name: str) -> None:
        """Call `action`, which must not raise, every `interval` seconds from now on."""
        if is_prefork(consumer.pool):
            self._timer_entry = consumer.timer.call_repeatedly(interval, action)
        else:
            self._stopped = threading.Event()
            arguments = (interval, action, self._stopped)
            threading.Thread(target=_repeat_until, args=arguments, name=name, daemon=True).start()

    def stop(self, consumer: Any) -> None:
        """Stop until the connection is back; in a worker that shuts down, continue until its last job has ended."""
        if state.should_stop is None and state.should_terminate is None:
            self.cancel()

    def cancel(self) -> None:
        """Stop the periodic action."""
        self._stopped.set()
        if self._timer_entry is not None:
            self._timer_entry.cancel()
            self._timer_entry = None


def _repeat_until(interval: float, action: Callable[[], None], stopped: threading.Event) -> None:
    while not stopped.wait(interval):
        action()
