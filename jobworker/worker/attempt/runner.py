"""The run of one attempt, from its start to its report, in the process that runs the job."""

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import thread as pool_threads
from pathlib import Path
from typing import Any

import redis
import structlog

from jobworker import declare
from jobworker.clock import Clock
from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.log_limits import DroppedLines
from jobworker.files.local import LocalFiles
from jobworker.settings import Settings
from jobworker.transport import keys
from jobworker.transport.broker.in_flight import InFlight
from jobworker.transport.claims import Claim
from jobworker.worker.attempt import outcome
from jobworker.worker.attempt.delivery import Delivery
from jobworker.worker.attempt.log_capture import JobLogHandler
from jobworker.worker.attempt.log_sender import LogSender
from jobworker.worker.attempt.outcome import AttemptOutcome
from jobworker.worker.attempt.reporter import AttemptReporter
from jobworker.worker.celery import tracer
from jobworker.worker.control.slots import ControlSlot, ControlTable, LocalControlSlot
from jobworker.worker.control.time_limits import TimeLimitEnforcer
from jobworker.worker.redis_connection import RedisConnection

logger = structlog.get_logger(__name__)

_encode_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class AttemptRunner:
    """Runs attempts in a worker process. Created in the parent, before it forks.

    `in_flight` is used by the parent alone; `batched` states whether messages come through JobWorker's transport.
    """

    def __init__(self, settings: Settings, clock: Clock, worker: str, in_flight: InFlight, code_version: str) -> None:
        self.worker = worker
        self.code_version = code_version
        self.in_flight = in_flight
        self.batched = settings.transport == "batched"
        self.redis_connection = RedisConnection(settings)
        self.control_table = ControlTable()
        self.time_limits = TimeLimitEnforcer(self.control_table, clock)
        self.settings = settings
        #: The working directory at the worker's start; a job may change it for good.
        self.start_folder = Path.cwd()
        self._clock = clock
        self._log_sender = LogSender(self.redis_connection, clock)
        self._parent_pid: int | None = os.getpid()
        self._handler: JobLogHandler | None = None

    def log_record(self, record: logging.LogRecord) -> None:
        """Pass a record to the job that runs here, and not to the worker's own log."""
        if self._handler is not None:
            self._handler.emit(record)

    def record_dropped(self, dropped: DroppedLines) -> None:
        """Record lines of the job that runs here which were not stored."""
        if self._handler is not None:
            self._handler.record_dropped(dropped)

    def configure_single_job(self, control_table: ControlTable, log_sender: LogSender) -> None:
        """Set up this process for one job only, with its own control table and log sender."""
        self.control_table, self._log_sender, self._parent_pid = control_table, log_sender, None

    def run_attempt(
        self,
        delivery: Delivery,
        body: Callable[[], Any],
        parameters: dict[str, Any],
        on_outcome: Callable[[AttemptOutcome, Any], None] | None = None,
    ) -> Any:
        """Run the job and store the report for the parent. Raises what the job raised.

        `on_outcome` is called with the outcome and what the job returned or raised, while the job's context still
        exists.
        """
        started = self._clock.monotonic()
        attempt = AttemptReporter(self._log_sender, self._clock, delivery)
        files = LocalFiles(self.settings.home, delivery.execution)
        slot = self.control_table.acquire(delivery.token)
        context = self._make_context(delivery, parameters, attempt, files, slot)
        try:
            value = self._call_in_context(delivery, functools.partial(_run_in_slot, slot, body), context, attempt)
            ended = outcome.from_return(
                value, lambda text: files.save_result(delivery.attempt, text), slot.limit_passed
            )
        except BaseException as error:
            ended = outcome.from_exception(error)
            if on_outcome:
                self._call_in_context(delivery, functools.partial(on_outcome, ended, error), context, attempt)
            self._store_report(delivery, ended, started, attempt)
            raise
        if on_outcome:
            self._call_in_context(delivery, functools.partial(on_outcome, ended, value), context, attempt)
        self._store_report(delivery, ended, started, attempt)
        return value

    def write_log_line(self, claim: Claim, level: str, message: str) -> None:
        """Write a line to an execution's log, from the worker's parent process; lost if Redis does not accept it."""
        data = {"level": level, "logger": "jobworker", "message": message, "at": self._clock.now().isoformat()}
        with contextlib.suppress(redis.RedisError):
            fields = events.encode(EventKind.LOG, claim.execution, claim.attempt, data)
            self.redis_connection.client.xadd(keys.LOGS, fields)  # type: ignore[arg-type]

    def _call_in_context(
        self, delivery: Delivery, body: Callable[[], Any], context: declare.Context, attempt: AttemptReporter
    ) -> Any:
        handler = self._handler or self._install_log_handler()
        entered = declare.set_current_context(context)
        listening = handler.enter_attempt(attempt)
        bound = structlog.contextvars.bind_contextvars(
            job=delivery.job, execution=delivery.execution, attempt=delivery.attempt
        )
        try:
            return tracer.run_in_one_process(body)
        finally:
            structlog.contextvars.reset_contextvars(**bound)
            handler.leave_attempt(listening)
            declare.reset_current_context(entered)

    def _store_report(
        self, delivery: Delivery, attempt_outcome: AttemptOutcome, started: float, attempt: AttemptReporter
    ) -> None:
        runtime = round(self._clock.monotonic() - started, 6)
        data = {"worker": self.worker, "token": delivery.token, "runtime": runtime, **attempt_outcome.data}
        tracer.store_report((attempt_outcome.kind.value, _encode_json(data)))
        remainder = attempt.close()
        if remainder:
            tracer.store_report((attempt_outcome.kind.value, _encode_json({**data, **remainder})))

    def _make_context(
        self,
        delivery: Delivery,
        parameters: dict[str, Any],
        attempt: AttemptReporter,
        files: LocalFiles,
        slot: ControlSlot | LocalControlSlot,
    ) -> declare.Context:
        return declare.Context(
            execution_id=delivery.execution,
            job=delivery.job,
            attempt=delivery.attempt,
            max_attempts=delivery.max_attempts,
            parameters=parameters,
            scheduled_for=delivery.scheduled_for,
            correlation_id=delivery.correlation_id,
            worker=self.worker,
            log=logging.getLogger(f"jobs.{delivery.job}"),
            files=files,
            _progress=attempt.report_progress,
            metadata=attempt.metadata,
            _control=slot,
        )

    def _install_log_handler(self) -> JobLogHandler:
        self._handler = JobLogHandler(self._log_sender, one_at_a_time=os.getpid() != self._parent_pid)
        self._handler.install()
        os.register_at_fork(after_in_child=self._handler.reset_after_fork)
        # Otherwise `multiprocessing` fails in a process that a thread of the pool has forked: it would wait for that
        # thread, itself.
        os.register_at_fork(after_in_child=pool_threads._threads_queues.clear)  # type: ignore[attr-defined]
        return self._handler


def _run_in_slot(slot: ControlSlot | LocalControlSlot, body: Callable[[], Any]) -> Any:
    try:
        return body()
    finally:
        slot.release()  # From here on the result counts: a soft limit now comes too late.
