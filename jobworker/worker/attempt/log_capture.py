"""Python's logging, as far as it is the running job's: each record goes to the attempt that it belongs to.

It belongs to the attempt in whose context it was made: the job's own thread, its asyncio tasks, and threads that were
started with a copy of the context. In a process that runs one job at a time, so does what any other thread says.
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

#: A record with this attribute is the worker's business, although it was made while a job ran.
WORKER_RECORD_ATTRIBUTE = "of_worker"

#: Least level of what is kept with an execution, whatever the worker itself shows.
_MIN_LEVEL = logging.INFO


class JobLogHandler(logging.Handler):
    """Passes records of running jobs on; records from elsewhere are not its business."""

    def __init__(self, log_sender: LogSender, one_at_a_time: bool) -> None:
        super().__init__(_MIN_LEVEL)
        self._log_sender = log_sender
        self._one_at_a_time = one_at_a_time
        self._only_attempt: AttemptReporter | None = None
        #: Python's logging as it was when this process began to run jobs.
        self._logging_state = configured.read_logging_state()

    def install(self) -> None:
        """Begin, in the process that runs jobs: a parent that forks has nothing to report."""
        root = logging.getLogger()
        shown = root.level
        for handler in root.handlers:
            handler.addFilter(self._is_shown)
            if shown > _MIN_LEVEL:
                handler.setLevel(max(shown, handler.level))
        root.setLevel(min(shown, _MIN_LEVEL))
        root.addHandler(self)
        self._logging_state = configured.read_logging_state()
        # What a record with arguments that do not fit says is in the log of the execution; logging itself would print
        # it with its own calls, as a hundred lines of that log.
        logging.raiseExceptions = False

    def restore_logging(self) -> None:
        """Undo what a job has done to Python's logging and to `sys.stdout`: it would silence the jobs after it."""
        output_capture.restore_streams()
        configured.restore_logging_state(self._logging_state)

    def enter_attempt(self, attempt: AttemptReporter) -> contextvars.Token[AttemptReporter | None]:
        """From now on `attempt` runs here."""
        self.restore_logging()
        self._only_attempt = attempt if self._one_at_a_time else None
        return _current_attempt.set(attempt)

    def reset_after_fork(self) -> None:
        """Belong, in a process that a job has forked, to its attempt alone."""
        self._log_sender.reset_after_fork()
        self._one_at_a_time = True
        self._only_attempt = _current_attempt.get() or self._only_attempt
        if self._only_attempt is not None:
            self._only_attempt.reset_after_fork()

    def leave_attempt(self, token: contextvars.Token[AttemptReporter | None]) -> None:
        """The inverse of `enter`."""
        output_capture.flush_lines()
        self._only_attempt = None
        _current_attempt.reset(token)

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises, but for a time limit that strikes here: a job must not fail because it said something."""
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
        """What the job that runs here has said, and nobody has kept."""
        attempt = _current_attempt.get() or self._only_attempt
        if attempt is not None:
            attempt.record_dropped(dropped)

    def _find_attempt(self, record: logging.LogRecord) -> AttemptReporter | None:
        """Whose words these are."""
        of_worker = self._log_sender.is_own_thread() or getattr(record, WORKER_RECORD_ATTRIBUTE, False)
        return None if of_worker else _current_attempt.get() or self._only_attempt

    def _is_shown(self, record: logging.LogRecord) -> bool:
        """What is too much for the execution's log is too much for the worker's own."""
        attempt = self._find_attempt(record)
        return attempt is None or not attempt.log_full
