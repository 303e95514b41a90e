"""Advisory lock on a file: fair between threads and processes, and with a deadline.

`flock` has no timeout. Polling would starve: a process that locks hundreds of times a second leaves the lock free for
microseconds only. So a dedicated thread waits in the kernel's queue when another process holds the lock, and callers
wait for that thread. If a caller gives up, the thread stays in the queue and serves the next caller.
"""

import contextlib
import fcntl
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

from jobworker.clock import Clock
from jobworker.store.database.lock_waits import BRIEF_TIMEOUT_SECONDS, build_busy_error


class _Request:
    """Request in the kernel's queue for the lock on `descriptor`, which the request owns until `acquire` returns it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._state = threading.Lock()
        self._ended = threading.Event()
        self._has_waiter, self._granted = True, False

    def renew(self) -> bool:
        """Return whether the request is still queued; if so, reserve the lock for the caller, which calls `acquire`."""
        with self._state:
            self._has_waiter = not self._ended.is_set()
            return self._has_waiter

    def acquire(self, seconds: float) -> int | None:
        """Return the locked descriptor once the lock is granted; None if that takes more than `seconds`."""
        self._ended.wait(seconds)
        with self._state:
            self._has_waiter = False
            return self._descriptor if self._granted else None

    def wait_for_lock(self) -> None:
        """Wait in the kernel's queue, without a timeout."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        with self._state:
            self._granted = locked and self._has_waiter
            if not self._granted:
                os.close(self._descriptor)
            self._ended.set()


_RequestQueue = SimpleQueue[_Request | None]


class FileLock:
    """Exclusive lock for the threads of this process and for other processes that use the same file."""

    def __init__(self, path: Path, clock: Clock, timeout_seconds: float) -> None:
        self._path = path
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        #: Whether the last writer timed out on this lock or on SQLite's own. Reset by a writer that succeeds.
        self.has_timed_out = False
        self._thread_lock = threading.Lock()
        self._request: _Request | None = None
        # Starting a thread for each wait would cost more than most waits.
        self._requests: _RequestQueue = SimpleQueue()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._requests.put, None)

    @property
    def timeout_seconds(self) -> float:
        """Current timeout of callers (s)."""
        return min(self._timeout_seconds, BRIEF_TIMEOUT_SECONDS) if self.has_timed_out else self._timeout_seconds

    @contextlib.contextmanager
    def hold(self, deadline: float) -> Iterator[None]:
        """Hold the lock; raise `DatabaseBusy` if the lock is not granted before `deadline` (of `Clock.monotonic`)."""
        began = self._clock.monotonic()
        if not self._thread_lock.acquire(timeout=max(0.0, deadline - began)):
            self.has_timed_out = True
            raise build_busy_error(self._clock.monotonic() - began)
        try:
            descriptor = self._acquire(deadline)
            if descriptor is None:
                self.has_timed_out = True
                raise build_busy_error(self._clock.monotonic() - began)
            try:
                yield
            finally:
                os.close(descriptor)
        finally:
            self._thread_lock.release()

    def _acquire(self, deadline: float) -> int | None:
        """Return the locked descriptor, or None after the deadline; the request then stays in the queue."""
        if self._request is None or not self._request.renew():
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if _try_lock(descriptor):
                return descriptor
            self._request = _Request(descriptor)
            self._enqueue(self._request)
        granted = self._request.acquire(max(0.0, deadline - self._clock.monotonic()))
        if granted is not None:
            self._request = None
        return granted

    def _enqueue(self, request: _Request) -> None:
        # After a fork the thread is not alive in the child process.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=_serve_requests, args=(self._requests,), name="file-lock", daemon=True
            )
            self._thread.start()
        self._requests.put(request)


def _serve_requests(requests: _RequestQueue) -> None:
    while (request := requests.get()) is not None:
        request.wait_for_lock()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        os.close(descriptor)
        raise
    return True
