"""Sending of log lines, progress and metadata of this process's running jobs to Redis, on two streams.

A thread sends them in batches, so that a job with many lines does not wait. All buffers are bounded: a line without
space is dropped and counted, and only the latest progress and metadata wait. The streams are bounded, too: while the
relay is behind, lines wait in this process.
"""

import collections
import threading
from typing import Protocol

import redis
import structlog

from jobworker.clock import Clock
from jobworker.transport import keys
from jobworker.worker.redis_connection import RedisConnection

logger = structlog.get_logger(__name__)

#: Delay before a line is sent (s); long enough for batches, short enough to watch live.
_SEND_DELAY_SECONDS = 0.25

#: Maximum number of entries, and of bytes, in one batch.
_MAX_BATCH_ENTRIES, _MAX_BATCH_SIZE = 500, 256 * 1024

#: Maximum number of lines, and of bytes, that wait in this process.
_MAX_LINES, _MAX_SIZE = 10_000, 4 * 1024 * 1024

#: Size of the log stream (bytes), and length of the event stream, above which the relay is behind and entries wait
#: here.
_MAX_LOG_STREAM_SIZE, _MAX_EVENT_STREAM_LENGTH = 64 * 1024 * 1024, 10_000

#: Number of samples by which Redis estimates the size of the log stream.
_MEMORY_SAMPLES = 5

#: Time after a failure during which only the thread tries again (s).
_RETRY_DELAY_SECONDS = 1.0

StreamEntry = dict[str, str]


class StatusSource(Protocol):
    """A source of updates of which only the latest counts."""

    def take_updates(self) -> list[StreamEntry]:
        """Return the entries for the latest updates."""
        ...

    def restore_updates(self) -> None:
        """Make `take_updates` return the last updates again, or newer ones, because sending failed."""
        ...


class LogSender:
    """Collects and sends entries of this process's jobs. One per process; any thread may call it."""

    def __init__(self, connection: RedisConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._lines: collections.deque[tuple[StreamEntry, int]] = collections.deque()
        self._size = 0
        self._sources: dict[int, StatusSource] = {}
        self._queue_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._work_available = threading.Event()
        self._thread: threading.Thread | None = None
        #: Whether entries are sent at once, and not by the thread.
        self._sends_immediately = False
        self._logs_full = self._events_full = False
        self._failed_at = float("-inf")

    def add_entry(self, entry: StreamEntry, size: int, always: bool = False) -> bool:
        """Add a log entry of `size` bytes; return False if there is no space, which `always` ignores."""
        with self._queue_lock:
            full = len(self._lines) >= _MAX_LINES or self._size + size > _MAX_SIZE
            if full and not always:
                return False
            self._lines.append((entry, size))
            self._size += size
        self._trigger_send()
        return True

    def add_source(self, source: StatusSource) -> None:
        """Note that `source` has updates."""
        with self._queue_lock:
            self._sources[id(source)] = source
        self._trigger_send()

    def is_own_thread(self) -> bool:
        """Return whether the sender's own thread calls: its log records belong to no attempt."""
        return threading.current_thread() is self._thread

    def flush(self) -> None:
        """Send the waiting lines; lines that cannot be sent now stay for later."""
        if self._clock.monotonic() - self._failed_at >= _RETRY_DELAY_SECONDS:
            with self._send_lock:
                self._send_lines()

    def remove_source(self, source: StatusSource) -> None:
        """Remove `source`, which reports the rest otherwise; none of its updates is being sent afterwards."""
        with self._send_lock, self._queue_lock:
            self._sources.pop(id(source), None)

    def reset_after_fork(self) -> None:
        """Reset, in a process that a job has forked, the parent's entries, and locks that other threads held.

        Entries of this process are sent at once, because it may end at any moment.
        """
        self._lines.clear()
        self._size = 0
        self._sources = {}
        self._queue_lock, self._send_lock = threading.Lock(), threading.Lock()
        self._sends_immediately = True

    def _send_lines(self) -> None:
        self._logs_full = self._logs_full and self._is_log_stream_full()
        remaining = len(self._lines)  # Not lines added meanwhile: a caller may be waiting.
        while remaining and not self._logs_full:
            batch = self._take_batch(remaining)
            if not self._try_send(batch):
                return
            remaining -= len(batch)
            with self._queue_lock:
                for _ in batch:
                    self._size -= self._lines.popleft()[1]

    def _take_batch(self, limit: int) -> list[StreamEntry]:
        batch: list[StreamEntry] = []
        size = 0
        with self._queue_lock:
            for entry, its_size in self._lines:
                if batch and (len(batch) >= min(limit, _MAX_BATCH_ENTRIES) or size + its_size > _MAX_BATCH_SIZE):
                    break
                batch.append(entry)
                size += its_size
        return batch

    def _try_send(self, lines: list[StreamEntry]) -> bool:
        try:
            with self._connection.client.pipeline(transaction=False) as pipe:
                for entry in lines:
                    pipe.xadd(keys.LOGS, entry)  # type: ignore[arg-type]
                pipe.memory_usage(keys.LOGS, samples=_MEMORY_SAMPLES)
                self._logs_full = (pipe.execute()[-1] or 0) > _MAX_LOG_STREAM_SIZE
        except redis.RedisError as error:
            self._note_failure(error)
            return False
        return True

    def _is_log_stream_full(self) -> bool:
        try:
            size = self._connection.client.memory_usage(keys.LOGS, samples=_MEMORY_SAMPLES)
        except redis.RedisError as error:
            self._note_failure(error)
            return True
        return (size or 0) > _MAX_LOG_STREAM_SIZE

    def _send_updates(self) -> None:
        with self._queue_lock:
            sources, self._sources = list(self._sources.values()), {}
        if not sources or (self._events_full and self._is_event_stream_full()):
            self._restore_sources(sources)
            return
        try:
            with self._connection.client.pipeline(transaction=False) as pipe:
                for entry in (entry for source in sources for entry in source.take_updates()):
                    pipe.xadd(keys.EVENTS, entry)  # type: ignore[arg-type]
                pipe.xlen(keys.EVENTS)
                self._events_full = pipe.execute()[-1] > _MAX_EVENT_STREAM_LENGTH
        except redis.RedisError as error:
            self._note_failure(error)
            for source in sources:
                source.restore_updates()
            self._restore_sources(sources)

    def _is_event_stream_full(self) -> bool:
        try:
            self._events_full = self._connection.client.xlen(keys.EVENTS) > _MAX_EVENT_STREAM_LENGTH
        except redis.RedisError as error:
            self._note_failure(error)
        return self._events_full

    def _restore_sources(self, sources: list[StatusSource]) -> None:
        with self._queue_lock:
            for source in sources:
                self._sources.setdefault(id(source), source)

    def _note_failure(self, error: redis.RedisError) -> None:
        self._failed_at = self._clock.monotonic()
        logger.debug("log_lines_delayed", error=str(error))

    def _trigger_send(self) -> None:
        if self._sends_immediately:
            self._send_immediately()
            return
        # Started by the first line and not before: the process may still fork until then.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
            self._thread.start()
        self._work_available.set()

    def _send_immediately(self) -> None:
        if self._clock.monotonic() - self._failed_at < _RETRY_DELAY_SECONDS or not self._send_lock.acquire(
            blocking=False
        ):
            return  # The next call sends it.
        try:
            self._send_updates()
            self._send_lines()
        finally:
            self._send_lock.release()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._work_available.wait()
            self._work_available.clear()
            self._clock.wait(pause, _SEND_DELAY_SECONDS)
            with self._send_lock:
                self._send_updates()
                self._send_lines()
            if self._lines or self._sources:
                self._work_available.set()  # Redis was down or full; try again.
