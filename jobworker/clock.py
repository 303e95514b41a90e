"""The only room that asks what time it is.

Everything else receives a `Clock`; a test hands in one whose hands it turns itself.
"""

import datetime as dt
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What the rest of JobWorker may know about time."""

    def now(self) -> dt.datetime:
        """The present moment, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a scale that never runs backwards; only differences mean something."""
        ...

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        """Wait until `signal` is set (True) or `seconds` have passed (False)."""
        ...


class SystemClock:
    """The clock of this host."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        return signal.wait(seconds)


class ManualClock:
    """A clock that stands still until it is told to move: for tests and simulation."""

    def __init__(self, start: dt.datetime) -> None:
        self._now = start
        self._elapsed = 0.0

    def now(self) -> dt.datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def wait(self, signal: threading.Event, seconds: float) -> bool:
        self.advance(seconds)
        return signal.is_set()

    def advance(self, seconds: float) -> None:
        """Move both hands forward."""
        self._now += dt.timedelta(seconds=seconds)
        self._elapsed += seconds
