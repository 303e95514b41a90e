"""State of a message in the worker's parent process, from its arrival to its end.

Every message that Celery understands becomes one `JobRequest`, and every end of it passes `acknowledge` or `reject`:
there the report of the attempt and the acknowledgement of the message are sent together.
"""

import json
import threading
import weakref
from typing import Any, ClassVar

import redis
import structlog
from billiard.einfo import ExceptionWithTraceback
from celery.concurrency import solo
from celery.exceptions import InvalidTaskError, TaskRevokedError
from celery.worker import state
from celery.worker.request import Request

from jobworker.transport.claims import Claim, ClaimResult
from jobworker.worker.attempt import direct_calls, outcome, retries
from jobworker.worker.attempt.delivery import EXECUTION_HEADER, TOKEN_HEADER, Delivery, generate_token
from jobworker.worker.attempt.outcome import AttemptOutcome
from jobworker.worker.celery import pool
from jobworker.worker.celery.task import JobTask
from jobworker.worker.celery.tracer import Report
from jobworker.worker.control.time_limits import CANCEL_TIMEOUT_SECONDS
from jobworker.worker.isolation import routing

logger = structlog.get_logger(__name__)

#: Pause before a failed claim is repeated (s).
_CLAIM_RETRY_SECONDS = 0.2

_SHORTCUTS = ("execute_using_pool", "on_success")


class JobRequest(Request):
    """Celery's request, which also reports the attempt of its message (if the message belongs to one)."""

    #: Requests of attempts that Celery holds back (rate limits, full pools) and that never reached the pool.
    held_back: ClassVar["weakref.WeakSet[JobRequest]"] = weakref.WeakSet()

    acknowledged: bool
    #: Time limits (s), set before the request is sent to the pool.
    hard: float | None = None
    soft: float | None = None
    #: Time that a cancelled attempt has to end by itself (s).
    cancel_timeout = CANCEL_TIMEOUT_SECONDS
    _claim: Claim | None = None
    _start_reported = False
    #: Data of the event of a direct call, which is reported before any other.
    _called_event: str | None = None
    _runs_in_event_loop = False
    _report: Report | None = None
    _error: BaseException | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Remove shortcuts that Celery adds to the subclass of each task, because they would bypass this class."""
        super().__init_subclass__(**options)
        for name in _SHORTCUTS:
            if name in cls.__dict__:
                delattr(cls, name)

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        runner = JobTask.runner
        header = self._header
        if runner is None or header is None:
            return
        self._in_flight, self._batched = runner.in_flight, runner.batched
        self._called_event = direct_calls.encode_called_event(
            message.headers, self._payload, self.delivery_info, self.delivery_info["priority"]
        )
        if direct_calls.is_direct_call(header) and self._called_event is None:
            del self._request_dict[EXECUTION_HEADER]  # Celery handles this message alone.
            return
        if self._called_event is not None:
            header = self._request_dict[EXECUTION_HEADER] = direct_calls.complete_header(header, self._task)
        token = message.delivery_tag if self._batched else generate_token()
        self._request_dict[TOKEN_HEADER] = token
        self._claim = self._in_flight.delivered.get(token) or _read_delivery(header, token).make_claim(runner.worker)
        self.held_back.add(self)

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return a description of the request without its parameters: anyone with access to Redis can request it."""
        described: dict[str, Any] = super().info(safe=True)
        return described

    def send_event(self, type: str, **fields: Any) -> None:
        """Send one of Celery's events, without the result of the job."""
        super().send_event(type, **{name: "" if name == "result" else value for name, value in fields.items()})

    # --- start ------------------------------------------------------------------------------------------------

    @property
    def token(self) -> str | None:
        """The token that distinguishes this delivery of an attempt from every other; None without an attempt."""
        return self._claim.token if self._claim else None

    @property
    def _header(self) -> dict[str, Any] | None:
        header: dict[str, Any] | None = self._request_dict.get(EXECUTION_HEADER)
        return header

    def execute_using_pool(self, pool: Any, **_: Any) -> Any:
        """Send the job to the pool. Raises `TaskRevokedError` if the attempt must not run."""
        self._apply_revoke_of_own_id()
        if self.revoked() or not self._acquire_claim() or not self._ensure_limits(pool) or not self._report_start():
            raise TaskRevokedError(self.id)
        self.held_back.discard(self)
        self._runs_in_event_loop = isinstance(pool, solo.TaskPool)
        result = pool.apply_async(
            self._select_tracer(pool),
            args=(self._type, self.id, self._request_dict, self._payload, None, None),  # Decoded already.
            accept_callback=self.on_accepted,
            callback=self.on_success,
            error_callback=self.on_failure,
            correlation_id=self.id,
        )
        self._apply_result = weakref.ref(result) if result is not None else None  # For `terminate`.
        return result

    def _apply_revoke_of_own_id(self) -> None:
        """Treat a `revoke` of the `task_id` that a program chose for its direct call as one of the execution."""
        header = self._header
        is_programs = direct_calls.is_direct_call(header) and str(header["called"].get("by")).startswith("python:")
        if header and is_programs and header.get("correlation_id") in state.revoked:
            state.revoked.add(self.id)

    def return_to_queue(self) -> None:
        """Return the unstarted message of a stopping worker to its list, for another worker."""
        if self._claim and self._batched and not self.acknowledged:
            self.acknowledged = True
            self._in_flight.requeue(self._claim.token)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Record that a process or thread has started the job."""
        if self._claim:
            if not self._start_reported:
                self._in_flight.report_started(self._claim)
            if self._runs_in_event_loop and self._in_flight.outbox.compute_flush_delay() == 0:
                self._in_flight.outbox.flush()  # The event loop continues only after the job.
        super().on_accepted(pid, time_accepted)
        if (self.hard or self.soft) and JobTask.runner:
            JobTask.runner.time_limits.watch_attempt(self, time_accepted)

    def _select_tracer(self, target_pool: Any) -> Any:
        """Return the tracer that this pool runs for the attempt."""
        fast = self._app.use_fast_trace_task
        return routing.select_tracer(self._type, self._header, fast=fast, shared=not pool.is_prefork(target_pool))

    def _ensure_limits(self, target_pool: Any) -> bool:
        """Return whether the attempt's time limits can be enforced: by the pool, or by a process of its own.

        Otherwise the attempt ends here as rejected.
        """
        hard, soft = self.time_limits
        default_hard, default_soft = pool.get_default_limits(target_pool)
        self.hard = hard or self._task.time_limit or default_hard
        self.soft = soft or self._task.soft_time_limit or default_soft
        forks = pool.is_prefork(target_pool)
        if (self.hard or self.soft) and not forks and not self._ensure_limits_outside_pool(pool.get_name(target_pool)):
            return False
        if routing.is_self_limiting(self._type, self._header):
            self._request_dict["timelimit"] = [self.hard, self.soft]
            self.hard = self.hard + routing.BACKSTOP_SECONDS if self.hard and forks else None
            self.soft = None
            self.cancel_timeout += routing.BACKSTOP_SECONDS
        return True

    def _ensure_limits_outside_pool(self, pool: str) -> bool:
        header = self._header
        if header is None or self._claim is None:
            self.hard = self.soft = None  # A plain Celery task: behave as Celery does.
            return True
        if routing.is_self_limiting(self._type, header) or routing.isolate_in_process(header, pool):
            return True
        self._set_outcome(outcome.for_unsupported_limits(pool, self.hard, self.soft))
        state.task_ready(self)
        self.acknowledge()
        return False

    def _acquire_claim(self) -> bool:
        """Return whether this worker may run the attempt. JobWorker's transport has claimed it; another one has not."""
        if self._claim is None or self._in_flight.can_start(self._claim):
            return True
        answer = self._request_claim(self._claim)
        if answer is ClaimResult.RUN:
            self._report_direct_call(self._claim)
            return True
        if answer is not None:
            logger.info("attempt_refused", execution=self._claim.execution, why=answer.value)
            self._claim = None
            self.acknowledge()
        state.task_ready(self)
        return False

    def _report_start(self) -> bool:
        """Report the start of an attempt that requires an announcement; return False if the worker stops meanwhile."""
        if self._claim is None or not self._request_dict[EXECUTION_HEADER].get("announce"):
            return True
        self._start_reported = True
        self._in_flight.report_started(self._claim)
        never = threading.Event()
        while not self._in_flight.outbox.flush():
            if state.should_stop is not None or state.should_terminate is not None:
                state.task_ready(self)
                return False
            never.wait(_CLAIM_RETRY_SECONDS)
        return True

    def _report_direct_call(self, claim: Claim) -> None:
        """Report a direct call, because the relay does not know it yet."""
        if self._called_event is not None:
            self._in_flight.report_direct_call(claim, self._called_event)
            self._called_event = None

    def _request_claim(self, claim: Claim) -> ClaimResult | None:
        """Return the result of the claim, retrying without a limit; None if the worker stops meanwhile."""
        never = threading.Event()
        while state.should_stop is None and state.should_terminate is None:
            try:
                return self._in_flight.claim(claim)
            except redis.RedisError as error:
                logger.warning("redis_away", error=str(error), next_try_in=_CLAIM_RETRY_SECONDS)
                never.wait(_CLAIM_RETRY_SECONDS)
        return None

    # --- end --------------------------------------------------------------------------------------------------

    def on_success(self, answer: Any, **options: Any) -> None:
        """Handle the result of the process or thread that ran the job."""
        if self._handle_forced_stop():
            return
        failed, value, runtime, report = answer
        self._report = self._report or report
        if failed:
            self.on_failure(value, return_ok=True)
        else:
            super().on_success((failed, value, runtime), **options)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Handle a passed time limit. The job reports a soft limit, this class a hard one."""
        if not soft:
            self._set_outcome(outcome.for_hard_limit(timeout, self._compute_retry_delay()))
        elif self._claim and JobTask.runner:
            JobTask.runner.write_log_line(self._claim, "WARNING", f"its soft time limit of {timeout:g} s has passed")
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Handle a failure: the job has reported it, or its process is gone and could not."""
        if self._handle_forced_stop():
            return
        error = exc_info.exception
        self._error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        exits = isinstance(self._error, SystemExit | KeyboardInterrupt)
        if isinstance(self._error, MemoryError) or (exits and self._report is not None):
            # Celery would raise the error in the event loop, or count a process as lost that has reported and
            # continues.
            state.task_ready(self)
            self.acknowledge()
        else:
            super().on_failure(exc_info, send_failed_event, return_ok)

    def acknowledge(self) -> None:
        """Report the attempt and acknowledge its message in one step."""
        if self._claim is None:
            super().acknowledge()
        elif not self.acknowledged:
            self.acknowledged = True
            self._send_report(self._claim)

    def reject(self, requeue: bool = False) -> None:
        """Finish a message without success; an attempt is reported like any other."""
        if self._claim is None:
            super().reject(requeue)
        else:
            self.acknowledge()

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        ended = outcome.for_expiry(self.expires) if expired else outcome.for_revocation(reason)
        if expired and self._claim is None and JobTask.runner:
            about = {"message": self.id, "task": self.name, "queue": self.delivery_info["routing_key"]}
            JobTask.runner.in_flight.acknowledge(
                self.message.delivery_tag, ended.kind, json.dumps({**about, **ended.data})
            )
        self._set_outcome(ended)
        super()._announce_revoked(reason, terminated, signum, expired)

    def _announce_cancelled(self, emit_retry: bool = True) -> None:
        super()._announce_cancelled(emit_retry)
        if not self._handle_forced_stop() and self._claim is not None:
            self._set_outcome(outcome.for_interruption())
            self.acknowledge()

    def _handle_forced_stop(self) -> bool:
        """Return whether the attempt was stopped by force; that outcome then replaces any other."""
        stop = JobTask.runner.time_limits.finish_attempt(self) if JobTask.runner else None
        if stop is None:
            return False
        if stop.limit is not None:
            self.on_timeout(soft=False, timeout=stop.limit)
        else:
            self._set_outcome(outcome.for_forced_stop(stop.signal))
            state.task_ready(self)
            self.acknowledge()
        return True

    def _compute_retry_delay(self) -> float | None:
        header = self._request_dict.get(EXECUTION_HEADER)
        if header is None:
            return None
        delivery = Delivery.from_header(header, self.token)
        return retries.compute_delay_after_hard_limit(self._task, delivery, self._request_dict["retries"])

    def _set_outcome(self, ended: AttemptOutcome) -> None:
        if self._claim is not None and self._report is None:
            self._report = _encode_report(ended, self._claim)

    def _send_report(self, claim: Claim) -> None:
        self._report_direct_call(claim)
        kind, data = self._report or _encode_report(outcome.from_missing_report(self._error), claim)
        self._in_flight.report_ended(claim, kind, data, None if self._batched else self._acknowledge_message)

    def _acknowledge_message(self) -> None:
        """Acknowledge the message on kombu's own transport once Redis has the report."""
        # Not through `_on_ack`, which waits for the event loop's next turn, perhaps for a second.
        self.message.ack_log_error(logger, self._connection_errors)


def _read_delivery(header: dict[str, Any], token: str) -> Delivery:
    try:
        return Delivery.from_header(header, token)
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidTaskError(f"the header of the relay cannot be read: {error!r}") from error


def _encode_report(ended: AttemptOutcome, claim: Claim) -> Report:
    data = {"worker": claim.worker, "token": claim.token, **ended.data}
    return ended.kind.value, json.dumps(data, allow_nan=False)
