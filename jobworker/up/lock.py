"""The lock on a home: two `jobworker up` would run two relays and two Redis servers on the same data."""

import fcntl
import os
import threading
from pathlib import Path

from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError

#: Timeout for the lock: a `jobworker up` that was just killed holds it until its processes have ended (s).
_ACQUIRE_TIMEOUT_SECONDS = 3.0


class HomeLock:
    """An advisory lock on a home; the kernel releases it when the last process that holds it ends."""

    def __init__(self, home: Path) -> None:
        self._path = home / "up.lock"
        self._file: int | None = None

    def acquire(self, clock: Clock) -> int:
        """Acquire the lock and return its descriptor; raises `ConfigurationError` if another process holds it."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"JOBWORKER_HOME={self._path.parent} cannot be used: {self._path} cannot be created "
                f"({error.strerror}); set JOBWORKER_HOME to a folder that can be written, or to one that can be created"
            ) from error
        deadline = clock.monotonic() + _ACQUIRE_TIMEOUT_SECONDS
        while not self._try_lock():
            if clock.monotonic() > deadline:
                raise ConfigurationError(
                    f"`jobworker up` runs already in {self._path.parent} (process {self._path.read_text().strip()}); "
                    "stop that one, or set JOBWORKER_HOME to another folder"
                )
            clock.wait(threading.Event(), 0.1)
        os.truncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())
        return self._file

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def is_held(self) -> bool:
        """Return whether a `jobworker up` runs in this home."""
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        held = not self._try_lock()
        self.release()
        return held

    def _try_lock(self) -> bool:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
