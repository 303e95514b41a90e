"""Celery's consumer, except that it reconnects quickly to Redis, and reports messages that it cannot process."""

import functools
import json
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer

from jobworker.domain.executions.events import EventKind
from jobworker.transport.broker.in_flight import parse_claim
from jobworker.transport.claims import Claim
from jobworker.worker.attempt import direct_calls
from jobworker.worker.celery.pool import is_prefork
from jobworker.worker.celery.request import JobRequest
from jobworker.worker.celery.task import JobTask
from jobworker.worker.shutdown import request_warm_shutdown

#: Intervals between two tries to connect (s): initial, increment, maximum. Celery's own go up to 30, and a worker
#: without a connection for longer than its lease is declared dead.
_RECONNECT_INTERVALS = {"interval_start": 0.2, "interval_step": 0.3, "interval_max": 2.0}

#: Timeout for the last reports of a worker that stops (s).
_FLUSH_TIMEOUT_SECONDS = 10.0


class Consumer(CeleryConsumer):
    """The consumer selected through `worker_consumer`."""

    #: Set by the heartbeat's bootstep.
    jobworker_heartbeat: Any = None

    # --- connections ------------------------------------------------------------------------------------------

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying again without a limit."""
        conn.ensure_connection = functools.partial(conn.ensure_connection, **_RECONNECT_INTERVALS)
        return super().ensure_connected(conn)

    def on_close(self) -> None:
        """Handle a lost connection. Messages stay in flight: their tags belong to the worker, not to a channel."""
        if JobTask.runner is None or not JobTask.runner.batched:
            super().on_close()

    # --- shutdown --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the worker. Messages that Celery holds back (rate limits) return to Redis unstarted."""
        # Remote control and unforeseen errors stop a worker without setting the shutdown state that other parts read.
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
        """Interrupt running attempts in a cold shutdown, where that is possible."""
        if is_prefork(self.pool):
            super().cancel_active_requests()

    def shutdown(self) -> None:
        """Close connections, return messages in flight, flush the last reports, and deregister the worker."""
        super().shutdown()
        if JobTask.runner:
            if JobTask.runner.batched:
                JobTask.runner.in_flight.requeue_all()
            JobTask.runner.in_flight.outbox.flush_before_exit(_FLUSH_TIMEOUT_SECONDS)
        if self.jobworker_heartbeat:
            self.jobworker_heartbeat.deregister()

    # --- messages that no attempt can run -----------------------------------------------------------------------

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body cannot be decoded."""
        _reject_message(message, exc, "the body of the message cannot be read")
        super().on_decode_error(message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Reject a message with invalid headers, or with a content type that this worker does not accept."""
        _reject_message(message, exc, "the message is not one that this worker accepts")
        super().on_invalid_task(body, message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Reject a message that is not a task."""
        _reject_message(message, ValueError("no task protocol"), "the message is not a task")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Decline a message whose task this worker does not have; another worker may."""
        runner = JobTask.runner
        name = message.headers.get("task") if isinstance(message.headers, dict) else None
        claim = parse_claim(message.headers, runner.worker, message.delivery_tag) if runner else None
        if runner and claim:
            _report_direct_call(message, claim)
            data = {"worker": claim.worker, "task": name, "reason": f"this worker has no task {name}"}
            runner.in_flight.report_refused(claim, EventKind.UNKNOWN_TASK, json.dumps(data))
        else:
            _reject_message(message, exc, "this worker does not have the task")
        super().on_unknown_task(body, message, exc)


def _report_direct_call(message: Any, claim: Claim) -> None:
    """Report the message if it is a direct call, because the relay does not know the call yet."""
    try:
        payload = message.payload
    except Exception:  # noqa: BLE001  the caller reports the unreadable message
        payload = None
    properties = message.properties or {}
    data = direct_calls.encode_called_event(
        message.headers, payload, message.delivery_info or {}, properties.get("priority")
    )
    if data is not None and JobTask.runner:
        JobTask.runner.in_flight.report_direct_call(claim, data)


def _reject_message(message: Any, error: Exception, reason: str) -> None:
    runner = JobTask.runner
    if runner:
        claim = parse_claim(message.headers, runner.worker, message.delivery_tag)
        if claim:
            _report_direct_call(message, claim)
        queue = (message.delivery_info or {}).get("routing_key")
        runner.in_flight.reject(message.delivery_tag, message.headers, error, reason, queue)
