"""A program that is the running job: its output is the job's log, and the job's limits and cancellation apply to it."""

import logging
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from jobworker import declare
from jobworker.clock import SystemClock
from jobworker.declare import Context, JobCancelled
from jobworker.worker.attempt import outcome, retries
from jobworker.worker.attempt.outcome import ReportedOutcome
from jobworker.worker.attempt.output_capture import STREAM_LEVELS
from jobworker.worker.celery.task import JobTask
from jobworker.worker.isolation import program
from jobworker.worker.isolation.deadlines import ProgramDeadlines, StopReason
from jobworker.worker.isolation.program import Program, ProgramEnd

#: Logger name of JobWorker's own lines in a job's log.
_LOGGER_NAME = "jobworker"

#: Prefix of the environment variables that a program gets.
_VARIABLE_PREFIX = "JOBWORKER_"


class ProgramLog:
    """A listener that writes a program's output to the log of the current job."""

    def __init__(self) -> None:
        self.last_line = ""

    def on_output(self, stream: str, line: str) -> None:
        """Log a line of `stdout` or `stderr`."""
        self.last_line = line
        self.log_line(line, STREAM_LEVELS[stream], stream)

    def on_message(self, message: dict[str, Any]) -> None:
        """Ignore the message, because a program without a message pipe sends none."""

    def on_soft_limit(self, limit: float) -> None:
        """Log that the soft time limit (s) has passed."""
        self.log_line(f"its soft time limit of {limit:g} s has passed", logging.WARNING, _LOGGER_NAME)

    @staticmethod
    def log_line(message: str, level: int, logger: str) -> None:
        """Write a line to the job's log."""
        record = {"name": logger, "msg": message, "levelname": logging.getLevelName(level)}
        JobTask.get_job_runner().log_record(logging.makeLogRecord(record))


def make_variables(context: Context) -> dict[str, str]:
    """Return the environment variables that describe the attempt to its program."""
    return {
        f"{_VARIABLE_PREFIX}EXECUTION": context.execution_id,
        f"{_VARIABLE_PREFIX}ATTEMPT": str(context.attempt),
        f"{_VARIABLE_PREFIX}JOB": context.job,
    }


def make_deadlines(task: JobTask) -> ProgramDeadlines:
    """Return the deadlines of the current job, which is an attempt of `task`."""
    context = declare.current()
    hard, soft = task.request.timelimit or (None, None)
    return ProgramDeadlines(SystemClock(), soft, hard, lambda: context.cancelled)


def run(spec: Program, task: JobTask, log: ProgramLog) -> ProgramEnd:
    """Run a program as the current job, an attempt of `task`; returns only if the program ended by itself.

    Raises `ReportedOutcome`, `JobCancelled` or `SoftTimeLimitExceeded` for another end.
    """
    times = make_deadlines(task)
    times.start()
    end = program.run(spec, times, log)
    raise_for_end(end, times, task)
    if end.exit_code != 0 and declare.current().cancelled:
        raise JobCancelled("the program ended on request")
    if end.exit_code != 0 and times.soft_limit_passed:
        raise SoftTimeLimitExceeded(f"the soft time limit of {times.soft:g} s passed")
    return end


def raise_for_end(end: ProgramEnd, times: ProgramDeadlines, task: JobTask) -> None:
    """Raise `ReportedOutcome` if the program's end was forced."""
    if end.stop_reason is StopReason.HARD_LIMIT:
        delivery = task.get_job_delivery()
        wait = retries.compute_delay_after_hard_limit(task, delivery, task.request.retries) if delivery else None
        raise ReportedOutcome(outcome.for_hard_limit(times.hard or 0, wait))
    if end.stop_reason is StopReason.CANCELLED:
        name = program.get_signal_name(end.signal) if end.signal is not None else "SIGTERM"
        raise ReportedOutcome(outcome.for_forced_stop(name))
