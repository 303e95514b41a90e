"""Waiting for a condition, with a deadline: what tests do instead of sleeping and hoping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Far longer than anything takes on a busy machine; only a failing test waits that long.
TIMEOUT_SECONDS = 30.0


def until(condition: Callable[[], T], within: float = TIMEOUT_SECONDS, every: float = 0.02, what: str = "") -> T:
    """The first true answer of `condition`; fails the test, naming `what`, when none came in time."""
    deadline = time.monotonic() + within
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within:g} s for {what or condition.__qualname__}; last answer: {answer!r}")
        time.sleep(every)
    return answer
