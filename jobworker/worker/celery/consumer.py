"""Celery's consumer, except that it comes back quickly when Redis does, and reports what it cannot understand."""

import functools
import json
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer

from jobworker.domain.executions.events import EventKind
from jobworker.transport.broker.messages import parse_claim
from jobworker.transport.claims import Claim
from jobworker.worker.attempt import direct_calls
from jobworker.worker.celery.pool import is_prefork
from jobworker.worker.celery.request import JobRequest
from jobworker.worker.celery.task import JobTask
from jobworker.worker.shutdown import request_warm_shutdown

#: Seconds between two tries to connect: at first, more each time, at most. Celery's own go up to 30, and
#: a worker that is away for longer than its lease is given up.
_RECONNECT_INTERVALS = {"interval_start": 0.2, "interval_step": 0.3, "interval_max": 2.0}

#: How long a worker that stops insists on delivering its last reports (s).
_FLUSH_TIMEOUT_SECONDS = 10.0


class Consumer(CeleryConsumer):
    """Selected through `worker_consumer`."""

    #: Set by the bootstep that beats.
    jobworker_heartbeat: Any = None

    # --- connections ------------------------------------------------------------------------------------------

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying again for as long as it takes."""
        conn.ensure_connection = functools.partial(conn.ensure_connection, **_RECONNECT_INTERVALS)
        return super().ensure_connected(conn)

    def on_close(self) -> None:
        """A connection is gone. Messages in hand stay in hand: their tags belong to the worker, not to a channel."""
        if JobTask.runner is None or not JobTask.runner.batched:
            super().on_close()

    # --- the end ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The worker stops. What Celery has in hand and holds back (rate limits) goes back to Redis unstarted."""
        # Remote control and unforeseen errors stop a worker without saying so; whoever has to know looks there.
        request_warm_shutdown()
        super().stop()
        for request in tuple(JobRequest.held_back):
            request.return_to_queue()
        for bucket in self.task_buckets.values():
            if bucket:
                bucket.clear_pending()
        for request in tuple(state.scheduled_requests):
            self.timer.cancel(request._eta_timer_entry)

    def cancel_active_requests(self) -> None:
        """A cold shutdown: interrupt what runs, where that is possible."""
        if is_prefork(self.pool):
            super().cancel_active_requests()

    def shutdown(self) -> None:
        """Close connections; what is in hand goes back, the last reports leave, and the worker says goodbye."""
        super().shutdown()
        if JobTask.runner:
            if JobTask.runner.batched:
                JobTask.runner.mailbox.requeue_all()
            JobTask.runner.mailbox.flush_before_exit(_FLUSH_TIMEOUT_SECONDS)
        if self.jobworker_heartbeat:
            self.jobworker_heartbeat.deregister()

    # --- messages that cannot become a run of a job -----------------------------------------------------------

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """The body cannot be decoded."""
        _reject_message(message, exc, "the body of the message cannot be read")
        super().on_decode_error(message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """The headers say something impossible, or the content type is none that this worker accepts."""
        _reject_message(message, exc, "the message is not one that this worker accepts")
        super().on_invalid_task(body, message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """This is no task at all."""
        _reject_message(message, ValueError("no task protocol"), "the message is no task")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """This worker does not have the task; another one may."""
        runner = JobTask.runner
        name = message.headers.get("task") if isinstance(message.headers, dict) else None
        ticket = parse_claim(message.headers, runner.worker, message.delivery_tag) if runner else None
        if runner and ticket:
            _report_direct_call(message, ticket)
            data = {"worker": ticket.worker, "task": name, "reason": f"this worker has no task {name}"}
            runner.mailbox.report_refused(ticket, EventKind.UNKNOWN_TASK, json.dumps(data))
        else:
            _reject_message(message, exc, "this worker does not have the task")
        super().on_unknown_task(body, message, exc)


def _report_direct_call(message: Any, claim: Claim) -> None:
    """If the message is a call from Python, the relay does not know of it yet."""
    try:
        payload = message.payload
    except Exception:  # noqa: BLE001  that it cannot be read is said anyway
        payload = None
    properties = message.properties or {}
    told = direct_calls.encode_called_event(
        message.headers, payload, message.delivery_info or {}, properties.get("priority")
    )
    if told is not None and JobTask.runner:
        JobTask.runner.mailbox.report_direct_call(claim, told)


def _reject_message(message: Any, error: Exception, reason: str) -> None:
    runner = JobTask.runner
    if runner:
        ticket = parse_claim(message.headers, runner.worker, message.delivery_tag)
        if ticket:
            _report_direct_call(message, ticket)
        queue = (message.delivery_info or {}).get("routing_key")
        runner.mailbox.reject(message.delivery_tag, message.headers, error, reason, queue)
