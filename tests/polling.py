"""Waiting for a condition with a deadline, instead of fixed sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Default timeout (s): far longer than any condition takes on a busy machine; only a failing test waits this long.
TIMEOUT_SECONDS = 30.0


def wait_until(condition: Callable[[], T], within: float = TIMEOUT_SECONDS, every: float = 0.02, what: str = "") -> T:
    """Return the first true value of `condition`; fail the test, naming `what`, if the deadline passes first."""
    deadline = time.monotonic() + within
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within:g} s for {what or condition.__qualname__}; last answer: {answer!r}")
        time.sleep(every)
    return answer
