"""What one attempt says while it runs: lines, progress, metadata. Bounded; it never fails a job and never waits.

Whoever runs the job makes one with `Reporter` and `Delivery`, from whichever thread the words come, and adds what
`close` answers to the attempt's report.
"""

import datetime as dt
import logging
import threading
from collections.abc import Mapping
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from jobworker.clock import Clock
from jobworker.domain import events, job_log, progress
from jobworker.domain.events import Kind
from jobworker.domain.job_log import Dropped
from jobworker.domain.metadata import Metadata
from jobworker.worker.delivery import Delivery
from jobworker.worker.reporter import Fields, Reporter

#: While lines are dropped, history is told so this often (s).
_TELL_EVERY = 2.0

_NONE = Dropped()

#: Who says what we say ourselves.
_LOGGER = "jobworker"


class AttemptReporter:
    """The words of one attempt. `metadata` is the mapping that the job may read and write; `full` its log may be."""

    def __init__(self, reporter: Reporter, clock: Clock, delivery: Delivery) -> None:
        self._reporter = reporter
        self._clock = clock
        self._delivery = delivery
        self._lock = threading.RLock()
        self._left = job_log.MAX_LOG
        self.full = False
        #: Lines beyond what is kept, and lines that found no room: as far as they were not told.
        self._beyond = self._lost = _NONE
        self._told_at = float("-inf")
        self._progress: dict[str, Any] | None = None
        self._refused = False
        self._said_something = False
        self._taken: tuple[dict[str, Any] | None, dict[str, Any]] = (None, {})
        self.metadata = Metadata(delivery.metadata, self._has_news)

    def start_over(self) -> None:
        """Leave to the parent, in a process that the job has forked, what it has not told yet."""
        self._lock = threading.RLock()  # Another thread may have held it.
        self._beyond = self._lost = _NONE
        self._progress = None
        self.metadata.start_over()

    # --- what is said ------------------------------------------------------------------------------------------

    def log(self, record: logging.LogRecord) -> None:
        """A record of Python's logging, with its traceback."""
        message = _message(record)
        if record.exc_info:
            message = f"{message}\n{logging.Formatter().formatException(record.exc_info)}"
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        self.line(message, record.levelname, record.name, at)

    def line(self, message: str, level: str = "INFO", logger: str = "stdout", at: dt.datetime | None = None) -> None:
        """A line; `at` is when it was said, now if absent."""
        self._said_something = True
        message = job_log.cut_line(message)
        size = job_log.size(message)
        with self._lock:
            if self.full or size > self._left:
                self.drop(Dropped(1, size))
            elif self._tell_lost() and self._add(level, logger, message, at):
                self._left -= size
            else:
                self._lost += Dropped(1, size)

    def drop(self, dropped: Dropped) -> None:
        """Lines that there is no room for, here or where they were said; no other is kept after them."""
        with self._lock:
            self._said_something = self.full = True
            self._beyond += dropped
            self._tell_beyond()

    def progress(self, done: Any, total: Any = None, message: Any = None) -> None:
        """How far the job is. What makes no sense is refused by a line in the log, once."""
        try:
            self._progress = progress.read(done, total, message)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # noqa: BLE001  a message may be an object that cannot be printed
            if not self._refused:
                self._refused = True
                self.line(f"progress was ignored: {error}", "WARNING", _LOGGER)
        else:
            self._has_news()

    def close(self) -> dict[str, Any]:
        """The attempt has ended: send its last lines, and answer what its report has to say for it."""
        if not self._said_something:
            return {}
        with self._lock:
            if self._lost:
                self._add("WARNING", _LOGGER, job_log.gap(self._lost), always=True)
            self._told_at = float("-inf")
            self._tell_beyond(always=True)
        self._reporter.settle(self)
        self._reporter.flush()  # So that whoever follows the job reads its last lines before its end.
        last, changes = self._take()
        return {
            **({"progress": last} if last is not None else {}),
            **({"metadata": changes} if changes else {}),
        }

    # --- what the reporter asks --------------------------------------------------------------------------------

    def take_news(self) -> list[Fields]:
        """The entries for the latest progress and for what has changed of the metadata."""
        self._taken = self._take()
        last, changes = self._taken
        news = [(Kind.PROGRESS, last)] if last is not None else []
        if changes:
            news.append((Kind.METADATA, changes))
        return [self._entry(kind, data) for kind, data in news]

    def give_news_back(self) -> None:
        """They did not leave."""
        with self._lock:
            last, changes = self._taken
            self._taken = (None, {})
            self._progress = self._progress or last
            self.metadata.give_back(changes)

    def _take(self) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        with self._lock:
            last, self._progress = self._progress, None
            return last, self.metadata.take()

    def _has_news(self) -> None:
        self._said_something = True
        self._reporter.announce(self)

    def _tell_lost(self) -> bool:
        """Where lines were lost, a line says so, as soon as there is room for it."""
        if self._lost and not self._add("WARNING", _LOGGER, job_log.gap(self._lost)):
            return False
        self._lost = _NONE
        return True

    def _tell_beyond(self, always: bool = False) -> None:
        if self._beyond and self._clock.monotonic() - self._told_at >= _TELL_EVERY:
            data = {"dropped": [self._beyond.lines, self._beyond.size]}
            if self._reporter.add(self._entry(Kind.LOG_CUT, data), 0, always):
                self._beyond = _NONE
                self._told_at = self._clock.monotonic()

    def _add(self, level: str, logger: str, message: str, at: dt.datetime | None = None, always: bool = False) -> bool:
        said_at = (at or self._clock.now()).isoformat()
        data = {"level": level, "logger": logger, "message": message, "at": said_at}
        return self._reporter.add(self._entry(Kind.LOG, data), job_log.size(message), always)

    def _entry(self, kind: Kind, data: Mapping[str, Any]) -> Fields:
        return events.encode(kind, self._delivery.execution, self._delivery.attempt, data)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  arguments are whatever users gave
        return f"{record.msg} (with arguments that do not fit: {type(error).__name__}: {error})"
