"""One attempt from claim to report: the pipeline that every job goes through in the process that runs it."""

import logging
from collections.abc import Callable
from typing import Any

import structlog
from celery.exceptions import Ignore

from jobworker import declare
from jobworker.clock import Clock
from jobworker.domain.events import Kind
from jobworker.files.local import LocalFiles
from jobworker.settings import Settings
from jobworker.transport.claims import Answer
from jobworker.worker import outcome
from jobworker.worker.delivery import Delivery
from jobworker.worker.link import Link
from jobworker.worker.outcome import Outcome
from jobworker.worker.reporter import JobLogHandler, Reporter, Running

logger = structlog.get_logger(__name__)


class Runner:
    """What a worker process needs to run jobs. Made in the parent, connected in each child."""

    def __init__(self, settings: Settings, clock: Clock, worker: str, code_version: str) -> None:
        self.worker = worker
        self.code_version = code_version
        self.link = Link(settings, clock)
        self._settings = settings
        self._clock = clock
        self._reporter = Reporter(self.link)
        self._running = Running()
        self._handler = JobLogHandler(self._running)

    def run(self, delivery: Delivery, body: Callable[[], Any], parameters: dict[str, Any]) -> Any:
        """Claim, run, report. Raises what the job raised, and `Ignore` if the attempt is not ours to run."""
        self._claim(delivery)
        started = self._clock.monotonic()
        try:
            value = self._call(delivery, body, parameters)
            ended = outcome.of_return(value)
        except (Exception, SystemExit) as error:
            self._report(delivery, outcome.of_exception(error), started)
            raise
        self._report(delivery, ended, started)
        return value

    def report_from_outside(self, delivery: Delivery, ended: Outcome) -> None:
        """The end of an attempt that could not tell it itself. Raises `redis.RedisError`."""
        self.link.claims.finish(delivery.ticket(self.worker), ended.kind, ended.data)

    def _claim(self, delivery: Delivery) -> None:
        ticket = delivery.ticket(self.worker)
        answer = self.link.insist(lambda: self.link.claims.claim(ticket, self.code_version))
        if answer is not Answer.RUN:
            logger.info("attempt_refused", execution=delivery.execution, attempt=delivery.attempt, why=answer.value)
            raise Ignore

    def _call(self, delivery: Delivery, body: Callable[[], Any], parameters: dict[str, Any]) -> Any:
        self._listen_to_logs()
        entered = declare.enter(self._context(delivery, parameters))
        self._running.enter(self._reporter, delivery)
        try:
            with structlog.contextvars.bound_contextvars(
                job=delivery.job, execution=delivery.execution, attempt=delivery.attempt
            ):
                return body()
        finally:
            self._running.leave()
            declare.leave(entered)

    def _report(self, delivery: Delivery, ended: Outcome, started: float) -> None:
        self._reporter.flush()  # So that whoever follows the job reads its last lines before its end.
        ticket = delivery.ticket(self.worker)
        data = {**ended.data, "runtime": round(self._clock.monotonic() - started, 6)}
        answer = self.link.insist(lambda: self.link.claims.finish(ticket, ended.kind, data))
        if answer is not Answer.OK:
            logger.warning("report_refused", execution=delivery.execution, attempt=delivery.attempt, why=answer.value)

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
        root = logging.getLogger()
        if self._handler not in root.handlers:
            root.addHandler(self._handler)
            # What a job logs is kept whatever the worker itself shows.
            logging.getLogger("jobs").setLevel(logging.INFO)


def hard_limit(seconds: float) -> Outcome:
    """The parent killed the process because the hard time limit had passed."""
    error = {"type": "TimeLimitExceeded", "message": f"the hard time limit of {seconds:g} s passed", "traceback": None}
    return Outcome(Kind.TIMED_OUT, {"error": error, "reason": "hard time limit exceeded"})


def process_gone(why: str) -> Outcome:
    """The process that ran the job is gone."""
    return Outcome(Kind.LOST, {"reason": f"the process that ran it ended: {why}"})


def revoked(why: str) -> Outcome:
    """Somebody used Celery's own `revoke`."""
    return Outcome(Kind.CANCELLED, {"reason": f"{why} through Celery's remote control"})
