"""One attempt from its start to its report: what every job goes through in the process that runs it."""

import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any

import structlog
from celery.exceptions import SoftTimeLimitExceeded

from jobworker import declare
from jobworker.clock import Clock
from jobworker.files.local import LocalFiles
from jobworker.settings import Settings
from jobworker.transport.mailbox import Mailbox
from jobworker.worker import outcome, trace
from jobworker.worker.delivery import Delivery
from jobworker.worker.link import Link
from jobworker.worker.outcome import Outcome
from jobworker.worker.reporter import JobLogHandler, Reporter, Running

logger = structlog.get_logger(__name__)

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Runner:
    """What a worker process needs to run jobs. Made in the parent, before it forks.

    `mailbox` belongs to the parent alone; `batched` says whether messages come through our transport.
    """

    def __init__(self, settings: Settings, clock: Clock, worker: str, mailbox: Mailbox, code_version: str) -> None:
        self.worker = worker
        self.code_version = code_version
        self.mailbox = mailbox
        self.batched = settings.transport == "batched"
        self.link = Link(settings)
        self._settings = settings
        self._clock = clock
        self._reporter = Reporter(self.link)
        self._running = Running()
        self._handler = JobLogHandler(self._running)
        self._listens = False

    def run(self, delivery: Delivery, body: Callable[[], Any], parameters: dict[str, Any]) -> Any:
        """Run the job and leave the report for the parent. Raises what the job raised."""
        started = self._clock.monotonic()
        try:
            value = self._call(delivery, body, parameters)
            ended = outcome.of_return(value)
        except BaseException as error:
            self._leave(delivery, outcome.of_exception(error), started)
            raise
        self._leave(delivery, ended, started)
        return value

    def _call(self, delivery: Delivery, body: Callable[[], Any], parameters: dict[str, Any]) -> Any:
        if not self._listens:
            self._listen_to_logs()
        entered = declare.enter(self._context(delivery, parameters))
        self._running.enter(self._reporter, delivery)
        bound = structlog.contextvars.bind_contextvars(
            job=delivery.job, execution=delivery.execution, attempt=delivery.attempt
        )
        try:
            return body()
        finally:
            structlog.contextvars.reset_contextvars(**bound)
            self._running.leave()
            declare.leave(entered)

    def _leave(self, delivery: Delivery, ended: Outcome, started: float) -> None:
        runtime = round(self._clock.monotonic() - started, 6)
        data = {"worker": self.worker, "token": delivery.token, "runtime": runtime, **ended.data}
        trace.leave((ended.kind.value, _encode(data)))
        # It counts from here on: a soft limit that strikes now comes too late.
        with contextlib.suppress(SoftTimeLimitExceeded):
            self._reporter.flush()  # So that whoever follows the job reads its last lines before its end.

    def _context(self, delivery: Delivery, parameters: dict[str, Any]) -> declare.Context:
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
            files=LocalFiles(self._settings.home, delivery.execution),
            _progress=lambda done, total, message: self._reporter.progress(delivery, done, total, message),
        )

    def _listen_to_logs(self) -> None:
        # In the process that runs jobs, and not before: a parent that forks has nothing to report.
        logging.getLogger().addHandler(self._handler)
        # What a job logs is kept whatever the worker itself shows.
        logging.getLogger("jobs").setLevel(logging.INFO)
        self._listens = True
