"""Clocks: the only module that reads the time.

All other code receives a `Clock`; tests pass one that they move themselves.
"""

import datetime as dt
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """A source of the time."""

    def now(self) -> dt.datetime:
        """Return the present moment, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a scale that never runs backwards; only differences are meaningful."""
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
    """A clock that moves only when `advance` or `wait` is called: for tests and simulation."""

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
        """Advance both times."""
        self._now += dt.timedelta(seconds=seconds)
        self._elapsed += seconds
