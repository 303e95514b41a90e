"""Log lines and progress of the running job, on their way to the log stream.

A thread sends them by the batch, so that a talkative job waits for nobody. When Redis is away they
are kept up to a limit; beyond it they are dropped and a line says how many.
"""

import collections
import datetime as dt
import logging
import threading
from typing import Any

import redis
import structlog

from jobworker.domain import events
from jobworker.domain.events import Kind
from jobworker.transport import keys
from jobworker.worker.delivery import Delivery
from jobworker.worker.link import Link

logger = structlog.get_logger(__name__)

#: Seconds between a line and its leaving; long enough to make batches, short enough to watch live.
_DELAY = 0.2
_BATCH = 500
_MOST_KEPT = 10_000

#: Longest log line (characters).
_MAX_LINE = 16 * 1024


class Reporter:
    """Collects what jobs of this process say. One for each process."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._entries: collections.deque[dict[str, str]] = collections.deque()
        self._dropped = 0
        self._something = threading.Event()
        self._sending = threading.Lock()
        self._thread: threading.Thread | None = None

    def progress(self, delivery: Delivery, done: float, total: float | None, message: str | None) -> None:
        """Note how far the job is."""
        self._add(Kind.PROGRESS, delivery, {"done": done, "total": total, "message": message})

    def log(self, delivery: Delivery, record: logging.LogRecord) -> None:
        """Note a log record."""
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{logging.Formatter().formatException(record.exc_info)}"
        if len(message) > _MAX_LINE:
            message = f"{message[:_MAX_LINE]} … [cut: {len(message)} characters]"
        at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat()
        self._add(Kind.LOG, delivery, {"level": record.levelname, "logger": record.name, "message": message, "at": at})

    def flush(self) -> None:
        """Send what is there; what cannot be sent now stays for later."""
        with self._sending:
            while self._entries:
                batch = [self._entries[index] for index in range(min(_BATCH, len(self._entries)))]
                try:
                    self._send(batch)
                except redis.RedisError as error:
                    logger.debug("log_lines_delayed", error=str(error))
                    return
                for _ in batch:
                    self._entries.popleft()

    def _send(self, batch: list[dict[str, str]]) -> None:
        with self._link.client.pipeline(transaction=False) as pipe:
            for fields in batch:
                pipe.xadd(keys.LOGS, fields)  # type: ignore[arg-type]
            pipe.execute()

    def _add(self, kind: Kind, delivery: Delivery, data: dict[str, Any]) -> None:
        if len(self._entries) >= _MOST_KEPT:
            self._dropped += 1
            return
        if self._dropped:
            data = {**data, "message": f"[{self._dropped} lines lost while Redis was away] {data['message'] or ''}"}
            self._dropped = 0
        self._entries.append(events.encode(kind, delivery.execution, delivery.attempt, data))
        self._ensure_thread()
        self._something.set()

    def _ensure_thread(self) -> None:
        # Started by the first line and not before: the process may still fork until then.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._send_for_ever, name="reporter", daemon=True)
            self._thread.start()

    def _send_for_ever(self) -> None:
        pause = threading.Event()
        while True:
            self._something.wait()
            self._something.clear()
            pause.wait(_DELAY)
            self.flush()
            if self._entries:
                self._something.set()  # Redis was away; try again.


class JobLogHandler(logging.Handler):
    """Passes log records of the running job on to its reporter; records from elsewhere are not its business."""

    def __init__(self, running: "Running") -> None:
        super().__init__()
        self._running = running

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: a job must not fail because it said something."""
        here = self._running.here()
        if here is not None:
            try:
                here[0].log(here[1], record)
            except Exception:  # noqa: BLE001  logging's own rule: handleError decides
                self.handleError(record)


class Running:
    """Which delivery runs in this thread (or greenlet), and who reports for it."""

    def __init__(self) -> None:
        self._local = threading.local()

    def here(self) -> tuple[Reporter, Delivery] | None:
        """The job of this thread, if there is one."""
        return getattr(self._local, "job", None)

    def enter(self, reporter: Reporter, delivery: Delivery) -> None:
        """From now on this thread runs `delivery`."""
        self._local.job = (reporter, delivery)

    def leave(self) -> None:
        """This thread runs no job any more."""
        self._local.job = None
