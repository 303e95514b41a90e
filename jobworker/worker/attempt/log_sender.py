"""What the running jobs of this process say, on its way to Redis: log lines on one stream, how far they are on another.

A thread sends it by the batch, so that a talkative job waits for nobody. Nothing here grows without bound: a line
that finds no room is dropped and counted, and of progress and metadata only the latest waits. Neither does Redis:
while the relay is behind, lines wait here.
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

#: Seconds between a line and its leaving; long enough to make batches, short enough to watch live.
_SEND_DELAY_SECONDS = 0.25

#: Most that is sent at once, in entries and in bytes.
_MAX_BATCH_ENTRIES, _MAX_BATCH_SIZE = 500, 256 * 1024

#: Most that waits in this process, in lines and in bytes.
_MAX_LINES, _MAX_SIZE = 10_000, 4 * 1024 * 1024

#: Beyond so many bytes of lines, or so many events, the relay is behind, and what is said waits here.
_MAX_LOG_STREAM_SIZE, _MAX_EVENT_STREAM_LENGTH = 64 * 1024 * 1024, 10_000

#: Parts of the log stream that Redis weighs to say how large it is.
_MEMORY_SAMPLES = 5

#: After Redis was found away, nobody but the thread tries again for so long (s).
_RETRY_DELAY_SECONDS = 1.0

StreamEntry = dict[str, str]


class StatusSource(Protocol):
    """Somebody with news of which only the latest counts."""

    def take_updates(self) -> list[StreamEntry]:
        """The entries that stand for what is new."""
        ...

    def restore_updates(self) -> None:
        """They could not be sent: `take_news` is to answer them again, or newer ones."""
        ...


class LogSender:
    """Collects what jobs of this process say. One for each process; any thread may call it."""

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
        #: Whether what is said leaves at once, and not by the thread.
        self._sends_immediately = False
        self._logs_full = self._events_full = False
        self._failed_at = float("-inf")

    def add_entry(self, entry: StreamEntry, size: int, always: bool = False) -> bool:
        """Take a log entry of `size` bytes; False when there is no room, which `always` does not ask about."""
        with self._queue_lock:
            full = len(self._lines) >= _MAX_LINES or self._size + size > _MAX_SIZE
            if full and not always:
                return False
            self._lines.append((entry, size))
            self._size += size
        self._trigger_send()
        return True

    def add_source(self, source: StatusSource) -> None:
        """`source` has news."""
        with self._queue_lock:
            self._sources[id(source)] = source
        self._trigger_send()

    def is_own_thread(self) -> bool:
        """Whether it is the reporter that is asking: what it logs is nobody's news."""
        return threading.current_thread() is self._thread

    def flush(self) -> None:
        """Send the lines that are there; what cannot be sent now stays for later."""
        if self._clock.monotonic() - self._failed_at >= _RETRY_DELAY_SECONDS:
            with self._send_lock:
                self._send_lines()

    def remove_source(self, source: StatusSource) -> None:
        """Forget about `source`, who says the rest by other means; nothing of it is under way afterwards."""
        with self._send_lock, self._queue_lock:
            self._sources.pop(id(source), None)

    def reset_after_fork(self) -> None:
        """Forget, in a process that a job has forked, what its parent sends and which locks other threads held.

        What this process says leaves at once: it may end at any moment.
        """
        self._lines.clear()
        self._size = 0
        self._sources = {}
        self._queue_lock, self._send_lock = threading.Lock(), threading.Lock()
        self._sends_immediately = True

    def _send_lines(self) -> None:
        self._logs_full = self._logs_full and self._is_log_stream_full()
        left = len(self._lines)  # Not what comes meanwhile: somebody may be waiting for us.
        while left and not self._logs_full:
            batch = self._take_batch(left)
            if not self._try_send(batch):
                return
            left -= len(batch)
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
            tellers, self._sources = list(self._sources.values()), {}
        if not tellers or (self._events_full and self._is_event_stream_full()):
            self._restore_sources(tellers)
            return
        try:
            with self._connection.client.pipeline(transaction=False) as pipe:
                for entry in (entry for teller in tellers for entry in teller.take_updates()):
                    pipe.xadd(keys.EVENTS, entry)  # type: ignore[arg-type]
                pipe.xlen(keys.EVENTS)
                self._events_full = pipe.execute()[-1] > _MAX_EVENT_STREAM_LENGTH
        except redis.RedisError as error:
            self._note_failure(error)
            for teller in tellers:
                teller.restore_updates()
            self._restore_sources(tellers)

    def _is_event_stream_full(self) -> bool:
        try:
            self._events_full = self._connection.client.xlen(keys.EVENTS) > _MAX_EVENT_STREAM_LENGTH
        except redis.RedisError as error:
            self._note_failure(error)
        return self._events_full

    def _restore_sources(self, sources: list[StatusSource]) -> None:
        with self._queue_lock:
            for teller in sources:
                self._sources.setdefault(id(teller), teller)

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
            return  # The next line takes it along.
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
                self._work_available.set()  # Redis was away, or full; try again.
