"""A worker that runs something looks once a second whether it has to stop some of it."""

import threading
from typing import Any

import redis
import structlog
from celery import bootsteps
from celery.worker import state

from jobworker.transport.claims import Ticket
from jobworker.transport.orders import Order, Orders
from jobworker.worker.pool import forks
from jobworker.worker.request import JobRequest
from jobworker.worker.runner import Runner
from jobworker.worker.task import JobTask

logger = structlog.get_logger(__name__)

#: How often (s); and how many looks are left out after Redis was away, so that a frozen one does not stop the rest.
_EVERY = 1.0
_LEFT_OUT = 5


class Lookout:
    """Carries out the orders to one worker. `look` is called by a timer and must not raise."""

    def __init__(self, runner: Runner, forks: bool) -> None:
        self._runner = runner
        self._orders = Orders(runner.link.client)
        self._forks = forks
        self._left_out = 0

    def look(self) -> None:
        """Ask for orders, and carry them out."""
        if self._left_out:
            self._left_out -= 1
            return
        held = {ticket.execution: ticket for ticket in [*self._runner.mailbox.held.values()] if ticket}
        if not held:
            return
        try:
            orders = self._orders.of(self._runner.worker)
            mine = {each: held[each.execution] for each in orders if _is_about(each, held.get(each.execution))}
            if strange := [each for each in orders if each not in mine]:
                self._orders.done(self._runner.worker, strange)
        except redis.RedisError as error:
            logger.warning("orders_not_read", error=str(error))
            self._left_out = _LEFT_OUT
            return
        for order, ticket in mine.items():
            self._carry_out(order, ticket)

    def _carry_out(self, order: Order, ticket: Ticket) -> None:
        if not self._forks:
            self._runner.desk.cancel(ticket.token, None)
        elif request := next((each for each in [*state.active_requests] if _is_of(each, ticket)), None):
            self._runner.limits.cancel(request, order.by)


def _is_about(order: Order, ticket: Ticket | None) -> bool:
    return ticket is not None and ticket.attempt == order.attempt


def _is_of(request: Any, ticket: Ticket) -> bool:
    return isinstance(request, JobRequest) and request.token == ticket.token


class OrdersStep(bootsteps.StartStopStep):
    """Looks from the event loop where the pool forks, else from a thread; and lets the event loop keep time limits."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer_entry: Any = None
        self._stopped = threading.Event()

    def start(self, consumer: Any) -> None:
        """Runs again after each reconnection."""
        runner = JobTask.runner
        if runner is None:
            return
        self._cancel()
        lookout = Lookout(runner, forks(consumer.pool))
        if forks(consumer.pool):
            runner.limits.attach(consumer.hub, consumer.pool._pool)
            self._timer_entry = consumer.timer.call_repeatedly(_EVERY, lookout.look)
        else:
            self._stopped = threading.Event()
            threading.Thread(target=_look_until, args=(lookout, self._stopped), name="orders", daemon=True).start()

    def stop(self, consumer: Any) -> None:
        """Stop until the connection is back; while a worker that stops for good waits for its jobs, it looks on."""
        if state.should_stop is None and state.should_terminate is None:
            self._cancel()

    def _cancel(self) -> None:
        self._stopped.set()
        if self._timer_entry is not None:
            self._timer_entry.cancel()
            self._timer_entry = None


def _look_until(lookout: Lookout, stopped: threading.Event) -> None:
    while not stopped.wait(_EVERY):
        lookout.look()
