"""Reports leave by the tick of the worker's event loop, and what can start starts in the same tick."""

from typing import Any

import structlog
from celery import bootsteps
from celery.worker import state

from jobworker.clock import Clock, SystemClock
from jobworker.transport.mailbox import Mailbox
from jobworker.worker.task import JobTask

logger = structlog.get_logger(__name__)

#: While messages wait in the worker, somebody looks so often (s) whether they have waited for too long.
_LOOK_AGAIN = 0.1


class Ticker:
    """Turns the wishes of the mailbox into calls by the event loop, one for any number of wishes."""

    def __init__(self, hub: Any, mailbox: Mailbox, clock: Clock) -> None:
        self._hub = hub
        self._mailbox = mailbox
        self._clock = clock
        self._asked = False
        self._timer: Any = None
        self._rings_at = float("inf")

    def soon(self) -> None:
        """Tick in the loop's next turn. May be called from any thread."""
        if not self._asked:
            self._asked = True
            self._hub.call_soon(self.tick)

    def tick(self) -> None:
        """Start what can start, and tell Redis what it should know by now."""
        self._asked = False
        self._mailbox.pump()
        if self._mailbox.due_in() == 0:
            self._mailbox.settle()
        self._come_back()

    def _come_back(self) -> None:
        due = self._mailbox.due_in()
        if due is None and self._mailbox.waiting:
            due = _LOOK_AGAIN
        if due is None:
            return
        at = self._clock.monotonic() + due
        # A report that is due sooner does not wait for a look at the messages.
        if at < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._rings_at = self._hub.call_later(due, self._ring), at

    def _ring(self) -> None:
        self._timer, self._rings_at = None, float("inf")
        self.tick()


class SettleStep(bootsteps.StartStopStep):
    """Connects the mailbox with the event loop. A pool without one settles every report by itself."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Runs again after each reconnection."""
        mailbox = _mailbox()
        if mailbox and consumer.hub:
            ticker = Ticker(consumer.hub, mailbox, SystemClock())
            mailbox.call_soon = ticker.soon
            ticker.soon()

    def stop(self, consumer: Any) -> None:
        """When the worker stops, what Celery does not have in hand yet goes back; the loop turns no more."""
        mailbox = _mailbox()
        if mailbox and (state.should_stop is not None or state.should_terminate is not None):
            mailbox.call_soon = None
            mailbox.give_back_waiting()
            mailbox.settle()


def _mailbox() -> Mailbox | None:
    return JobTask.runner.mailbox if JobTask.runner else None
