"""Probe: a check shared by its callers, run at most once a second, with a bounded wait for each caller."""

import threading

import pytest

from jobworker.clock import ManualClock
from jobworker.domain.errors import ConfigurationError
from jobworker.services import probe
from jobworker.services.probe import Probe
from tests.conftest import NOW
from tests.polling import wait_until


def test_probe_result_reused_for_a_second() -> None:
    clock, attempts = ManualClock(NOW), []
    shared_probe = Probe(lambda: attempts.append(1), clock)
    for _ in range(5):
        shared_probe.check()
    assert len(attempts) == 1
    clock.advance(1)
    shared_probe.check()
    assert len(attempts) == 2


def test_probe_failure_raised_to_all_callers_until_next_attempt() -> None:
    clock, failures = ManualClock(NOW), [OSError("full")]

    def attempt() -> None:
        if failures:
            raise failures.pop()

    shared_probe = Probe(attempt, clock)
    for _ in range(2):
        with pytest.raises(OSError, match="full"):
            shared_probe.check()
    clock.advance(1)
    shared_probe.check()


def test_hanging_probe_run_once_without_blocking_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_WAIT_TIMEOUT_SECONDS", 0.01)
    clock, released, attempts = ManualClock(NOW), threading.Event(), []

    def hang() -> None:
        attempts.append(1)
        released.wait(60)

    shared_probe = Probe(hang, clock)
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="a write has not finished within"):
            shared_probe.check()
        clock.advance(10)
    assert len(attempts) == 1
    released.set()

    def has_passed() -> bool:
        try:
            shared_probe.check()
        except ConfigurationError:
            return False
        return True

    wait_until(has_passed, what="the attempt to end")
