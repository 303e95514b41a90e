"""A shared attempt: made once a second at most, and no caller waits long for it."""

import threading

import pytest

from jobworker.clock import ManualClock
from jobworker.domain.errors import ConfigurationError
from jobworker.services import probe
from jobworker.services.probe import Probe
from tests.conftest import NOW
from tests.polling import until


def test_an_answer_is_fresh_for_a_second() -> None:
    clock, attempts = ManualClock(NOW), []
    asked = Probe(lambda: attempts.append(1), clock)
    for _ in range(5):
        asked.check()
    assert len(attempts) == 1
    clock.advance(1)
    asked.check()
    assert len(attempts) == 2


def test_a_failure_is_told_to_all_and_forgotten_with_the_next_attempt() -> None:
    clock, failures = ManualClock(NOW), [OSError("full")]

    def attempt() -> None:
        if failures:
            raise failures.pop()

    asked = Probe(attempt, clock)
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            asked.check()
    clock.advance(1)
    asked.check()


def test_one_that_hangs_is_waited_for_by_none_and_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_WAIT_TIMEOUT_SECONDS", 0.01)
    clock, released, attempts = ManualClock(NOW), threading.Event(), []

    def hang() -> None:
        attempts.append(1)
        released.wait(60)

    asked = Probe(hang, clock)
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="a write has not come to its end for"):
            asked.check()
        clock.advance(10)
    assert len(attempts) == 1
    released.set()

    def ask_again() -> bool:
        try:
            asked.check()
        except ConfigurationError:
            return False
        return True

    until(ask_again, what="the attempt to end")
