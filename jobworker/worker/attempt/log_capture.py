"""Capture of the running job's records from Python's logging: each record goes to the attempt that it belongs to.

A record belongs to the attempt in whose context it was created: in the job's own thread, its asyncio tasks, and threads
started with a copy of the context. In a process that runs one job at a time, records of all other threads belong to its
attempt, too.
"""

import contextvars
import logging

from celery.exceptions import SoftTimeLimitExceeded

from jobworker.domain.executions.log_limits import DroppedLines
from jobworker.telemetry import configured
from jobworker.worker.attempt import output_capture
from jobworker.worker.attempt.log_sender import LogSender
from jobworker.worker.attempt.reporter import AttemptReporter

_current_attempt: contextvars.ContextVar[AttemptReporter | None] = contextvars.ContextVar(
    "jobworker_attempt", default=None
)

#: A record with this attribute belongs to the worker, although it was created while a job ran.
WORKER_RECORD_ATTRIBUTE = "of_worker"

#: Minimum level of records that are stored with an execution, independent of the worker's own level.
_MIN_LEVEL = logging.INFO


class JobLogHandler(logging.Handler):
    """Passes records of running jobs on to their attempts; ignores other records."""

    def __init__(self, log_sender: LogSender, one_at_a_time: bool) -> None:
        super().__init__(_MIN_LEVEL)
        self._log_sender = log_sender
        self._one_at_a_time = one_at_a_time
        self._only_attempt: AttemptReporter | None = None
        #: State of Python's logging when this process began to run jobs.
        self._logging_state = configured.read_logging_state()

    def install(self) -> None:
        """Install the handler in the process that runs jobs; a parent that forks has no log lines to report."""
        root = logging.getLogger()
        shown = root.level
        for handler in root.handlers:
            handler.addFilter(self._is_shown)
            if shown > _MIN_LEVEL:
                handler.setLevel(max(shown, handler.level))
        root.setLevel(min(shown, _MIN_LEVEL))
        root.addHandler(self)
        self._logging_state = configured.read_logging_state()
        # The log of the execution contains a note about a record with mismatched arguments; logging itself would print
        # a note with its call stack, as a hundred lines of that log.
        logging.raiseExceptions = False

    def restore_logging(self) -> None:
        """Undo a job's changes to Python's logging and to `sys.stdout`, which would silence the jobs after it."""
        output_capture.restore_streams()
        configured.restore_logging_state(self._logging_state)

    def enter_attempt(self, attempt: AttemptReporter) -> contextvars.Token[AttemptReporter | None]:
        """Capture records for `attempt` from now on; return the token for `leave_attempt`."""
        self.restore_logging()
        self._only_attempt = attempt if self._one_at_a_time else None
        return _current_attempt.set(attempt)

    def reset_after_fork(self) -> None:
        """Capture records, in a process that a job has forked, for its attempt alone."""
        self._log_sender.reset_after_fork()
        self._one_at_a_time = True
        self._only_attempt = _current_attempt.get() or self._only_attempt
        if self._only_attempt is not None:
            self._only_attempt.reset_after_fork()

    def leave_attempt(self, token: contextvars.Token[AttemptReporter | None]) -> None:
        """Stop capturing records for the attempt of `enter_attempt`."""
        output_capture.flush_lines()
        self._only_attempt = None
        _current_attempt.reset(token)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on. Raises only a time limit that strikes here: logging a line must not fail a job."""
        attempt = self._find_attempt(record)
        if attempt is None:
            return
        try:
            attempt.log_record(record)
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # noqa: BLE001  logging's own rule: handleError decides
            self.handleError(record)

    def record_dropped(self, dropped: DroppedLines) -> None:
        """Record lines of the job that runs here which were not stored."""
        attempt = _current_attempt.get() or self._only_attempt
        if attempt is not None:
            attempt.record_dropped(dropped)

    def _find_attempt(self, record: logging.LogRecord) -> AttemptReporter | None:
        """Return the attempt that the record belongs to; None for a record of the worker."""
        of_worker = self._log_sender.is_own_thread() or getattr(record, WORKER_RECORD_ATTRIBUTE, False)
        return None if of_worker else _current_attempt.get() or self._only_attempt

    def _is_shown(self, record: logging.LogRecord) -> bool:
        """Return whether the worker's own log shows the record: not if the execution's log is full."""
        attempt = self._find_attempt(record)
        return attempt is None or not attempt.log_full
