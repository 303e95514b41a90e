"""Flushes of the report outbox by ticks of the worker's event loop, which also start prefetched messages."""

from typing import Any

from celery import bootsteps
from celery.worker import state

from jobworker.clock import Clock, SystemClock
from jobworker.transport.broker.in_flight import InFlight
from jobworker.worker.celery.task import JobTask

#: Interval of the checks whether prefetched messages have waited too long (s).
_POLL_INTERVAL_SECONDS = 0.1


class ReportFlusher:
    """Schedules flushes of the outbox in the event loop, one for any number of requests."""

    def __init__(self, hub: Any, in_flight: InFlight, clock: Clock) -> None:
        self._hub = hub
        self._in_flight = in_flight
        self._clock = clock
        self._is_scheduled = False
        self._timer: Any = None
        self._timer_due_at = float("inf")

    def schedule_flush(self) -> None:
        """Flush in the next turn of the loop. May be called from any thread."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._hub.call_soon(self.start_and_flush)

    def start_and_flush(self) -> None:
        """Deliver startable messages to Celery, and flush the outbox if a flush is due."""
        self._is_scheduled = False
        self._in_flight.deliver_ready()
        if self._in_flight.outbox.compute_flush_delay() == 0:
            self._in_flight.outbox.flush()
        self._schedule_timer()

    def _schedule_timer(self) -> None:
        due = self._in_flight.outbox.compute_flush_delay()
        if due is None and self._in_flight.prefetched:
            due = _POLL_INTERVAL_SECONDS
        if due is None:
            return
        at = self._clock.monotonic() + due
        # A flush that is due sooner does not wait for the check of prefetched messages.
        if at < self._timer_due_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_due_at = self._hub.call_later(due, self._on_timer), at

    def _on_timer(self) -> None:
        self._timer, self._timer_due_at = None, float("inf")
        self.start_and_flush()


class ReportFlushStep(bootsteps.StartStopStep):
    """Boot step that attaches the outbox to the event loop. Pools without a loop flush each report by itself."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def start(self, consumer: Any) -> None:
        """Attach the outbox to the event loop; called again after each reconnection."""
        in_flight = _get_in_flight()
        if in_flight and consumer.hub:
            ticker = ReportFlusher(consumer.hub, in_flight, SystemClock())
            in_flight.outbox.call_soon = ticker.schedule_flush
            ticker.schedule_flush()

    def stop(self, consumer: Any) -> None:
        """Return prefetched messages to their queues when the worker stops, because the loop ends."""
        in_flight = _get_in_flight()
        if in_flight and (state.should_stop is not None or state.should_terminate is not None):
            in_flight.outbox.call_soon = None
            in_flight.requeue_prefetched()
            in_flight.outbox.flush()


def _get_in_flight() -> InFlight | None:
    return JobTask.runner.in_flight if JobTask.runner else None
