"""Reporting of an attempt while it runs: log lines, progress, metadata. Bounded; it never fails a job and never waits.

Any thread may call the reporter. The result of `close` is added to the attempt's report.
"""

import datetime as dt
import logging
import threading
from collections.abc import Mapping
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from jobworker.clock import Clock
from jobworker.domain.executions import events, log_limits, progress
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.log_limits import DroppedLines
from jobworker.domain.executions.metadata import Metadata
from jobworker.worker.attempt.delivery import Delivery
from jobworker.worker.attempt.log_sender import LogSender, StreamEntry

#: Interval between events about dropped lines (s).
_LOG_CUT_INTERVAL_SECONDS = 2.0

_NOTHING_DROPPED = DroppedLines()

#: Logger name of JobWorker's own lines.
_LOGGER_NAME = "jobworker"


class AttemptReporter:
    """Reports of one attempt. `metadata` is the mapping that the job may read and write.

    `log_full` states whether the execution's log has reached its maximum size.
    """

    def __init__(self, log_sender: LogSender, clock: Clock, delivery: Delivery) -> None:
        self._log_sender = log_sender
        self._clock = clock
        self._delivery = delivery
        self._lock = threading.RLock()
        self._remaining_log_size = log_limits.MAX_LOG_BYTES
        self.log_full = False
        #: Unreported drops: lines beyond the log's maximum size, and lines without space in the sender.
        self._unreported_cut = self._unreported_gap = _NOTHING_DROPPED
        self._cut_reported_at = float("-inf")
        self._pending_progress: dict[str, Any] | None = None
        self._progress_rejected = False
        self._has_reported = False
        self._taken_updates: tuple[dict[str, Any] | None, dict[str, Any]] = (None, {})
        self.metadata = Metadata(delivery.metadata, self._announce_updates)

    def reset_after_fork(self) -> None:
        """Drop, in a process that the job has forked, the pending entries, which the parent reports."""
        self._lock = threading.RLock()  # Another thread may have held it.
        self._unreported_cut = self._unreported_gap = _NOTHING_DROPPED
        self._pending_progress = None
        self.metadata.reset_after_fork()

    # --- reporting ----------------------------------------------------------------------------------------------

    def log_record(self, record: logging.LogRecord) -> None:
        """Log a record of Python's logging, with its traceback."""
        message = _format_message(record)
        if record.exc_info:
            message = f"{message}\n{logging.Formatter().formatException(record.exc_info)}"
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        self.log_line(message, record.levelname, record.name, at)

    def log_line(
        self, message: str, level: str = "INFO", logger: str = "stdout", at: dt.datetime | None = None
    ) -> None:
        """Log a line; `at` is its time, now if absent."""
        self._has_reported = True
        message = log_limits.cut_line(message)
        size = log_limits.compute_line_size(message)
        with self._lock:
            if self.log_full or size > self._remaining_log_size:
                self.record_dropped(DroppedLines(1, size))
            elif self._report_gap() and self._add_line(level, logger, message, at):
                self._remaining_log_size -= size
            else:
                self._unreported_gap += DroppedLines(1, size)

    def record_dropped(self, dropped: DroppedLines) -> None:
        """Record lines that were dropped, here or at their source; no later line is stored."""
        with self._lock:
            self._has_reported = self.log_full = True
            self._unreported_cut += dropped
            self._report_cut()

    def report_progress(self, done: Any, total: Any = None, message: Any = None) -> None:
        """Report progress. Invalid values are refused by one line in the log."""
        try:
            self._pending_progress = progress.normalize(done, total, message)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # noqa: BLE001  a message may be an object that cannot be printed
            if not self._progress_rejected:
                self._progress_rejected = True
                self.log_line(f"progress was ignored: {error}", "WARNING", _LOGGER_NAME)
        else:
            self._announce_updates()

    def close(self) -> dict[str, Any]:
        """End the attempt: send its last lines, and return the pending progress and metadata for its report."""
        if not self._has_reported:
            return {}
        with self._lock:
            if self._unreported_gap:
                self._add_line("WARNING", _LOGGER_NAME, log_limits.format_gap_notice(self._unreported_gap), always=True)
            self._cut_reported_at = float("-inf")
            self._report_cut(always=True)
        self._log_sender.remove_source(self)
        self._log_sender.flush()  # So that clients read the last lines before the end.
        last, changes = self._take_pending()
        return {
            **({"progress": last} if last is not None else {}),
            **({"metadata": changes} if changes else {}),
        }

    # --- source of updates --------------------------------------------------------------------------------------

    def take_updates(self) -> list[StreamEntry]:
        """Return the entries for the latest progress and for the changes of the metadata."""
        self._taken_updates = self._take_pending()
        last, changes = self._taken_updates
        news = [(EventKind.PROGRESS, last)] if last is not None else []
        if changes:
            news.append((EventKind.METADATA, changes))
        return [self._encode_entry(kind, data) for kind, data in news]

    def restore_updates(self) -> None:
        """Restore the updates that could not be sent."""
        with self._lock:
            last, changes = self._taken_updates
            self._taken_updates = (None, {})
            self._pending_progress = self._pending_progress or last
            self.metadata.restore_changes(changes)

    def _take_pending(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        with self._lock:
            last, self._pending_progress = self._pending_progress, None
            return last, self.metadata.take_changes()

    def _announce_updates(self) -> None:
        self._has_reported = True
        self._log_sender.add_source(self)

    def _report_gap(self) -> bool:
        """Log how many lines were lost, if any; return False if there is no space for that line yet."""
        if self._unreported_gap and not self._add_line(
            "WARNING", _LOGGER_NAME, log_limits.format_gap_notice(self._unreported_gap)
        ):
            return False
        self._unreported_gap = _NOTHING_DROPPED
        return True

    def _report_cut(self, always: bool = False) -> None:
        if self._unreported_cut and self._clock.monotonic() - self._cut_reported_at >= _LOG_CUT_INTERVAL_SECONDS:
            data = {"dropped": [self._unreported_cut.lines, self._unreported_cut.size]}
            if self._log_sender.add_entry(self._encode_entry(EventKind.LOG_CUT, data), 0, always):
                self._unreported_cut = _NOTHING_DROPPED
                self._cut_reported_at = self._clock.monotonic()

    def _add_line(
        self, level: str, logger: str, message: str, at: dt.datetime | None = None, always: bool = False
    ) -> bool:
        said_at = (at or self._clock.now()).isoformat()
        data = {"level": level, "logger": logger, "message": message, "at": said_at}
        return self._log_sender.add_entry(
            self._encode_entry(EventKind.LOG, data), log_limits.compute_line_size(message), always
        )

    def _encode_entry(self, kind: EventKind, data: Mapping[str, Any]) -> StreamEntry:
        return events.encode(kind, self._delivery.execution, self._delivery.attempt, data)


def _format_message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  users' arguments may be anything
        return f"{record.msg} (with arguments that do not fit: {type(error).__name__}: {error})"
