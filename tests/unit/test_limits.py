"""Enforcement of time limits and cancellations, with a manual clock, a fake event loop and fake processes."""

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from jobworker.clock import ManualClock
from jobworker.worker.control import process_tree
from jobworker.worker.control.slots import ControlTable
from jobworker.worker.control.time_limits import CANCEL_TIMEOUT_SECONDS, TERMINATE_TIMEOUT_SECONDS, TimeLimitEnforcer
from tests.conftest import NOW


class FakeAttempt:
    """An attempt, and the limits that have passed."""

    def __init__(self, pid: int, hard: float | None = None, soft: float | None = None, token: str = "7") -> None:
        self.worker_pid = pid
        self.token: str | None = token
        self.hard = hard
        self.soft = soft
        self.cancel_timeout = CANCEL_TIMEOUT_SECONDS
        self.timeouts: list[tuple[bool, float]] = []

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Record the timeout."""
        self.timeouts.append((soft, timeout))


class FakeProcess:
    """A process of the pool."""

    def __init__(self, index: int) -> None:
        self.index = index


class TimeLimitDriver:
    """A clock, an event loop and a pool of four processes; `signals` are those sent to processes."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.control_table = ControlTable(slots=4)
        self.signals: list[tuple[float, str, int]] = []
        self._later: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.limits = TimeLimitEnforcer(self.control_table, self.clock)
        self.limits.attach_to_loop(self, self)

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> None:
        """Schedule a callback as an event loop does."""
        self._later.append((self.clock.monotonic() + delay, callback, arguments))

    def _process_by_pid(self, pid: int) -> tuple[FakeProcess | None, int]:
        return (FakeProcess(pid), pid) if pid < 4 else (None, 0)

    def record_signal(self, name: str, pid: int) -> None:
        """Record a signal sent to a process, with its time."""
        self.signals.append((round(self.clock.monotonic(), 3), name, pid))

    def advance_to(self, until: float) -> None:
        """Run the callbacks that are due until this time of the clock."""
        while due := sorted(
            (callback for callback in self._later if callback[0] <= until), key=lambda callback: callback[0]
        ):
            self._later.remove(due[0])
            self.clock.advance(max(0.0, due[0][0] - self.clock.monotonic()))
            due[0][1](*due[0][2])
        self.clock.advance(until - self.clock.monotonic())


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> TimeLimitDriver:
    driver = TimeLimitDriver()

    def terminate(pid: int) -> set[Any]:
        driver.record_signal("SIGTERM", pid)
        return set()

    def kill(pid: int, _: Iterable[Any] = ()) -> None:
        driver.record_signal("SIGKILL", pid)

    monkeypatch.setattr(process_tree, "terminate_tree", terminate)
    monkeypatch.setattr(process_tree, "kill_tree", kill)
    monkeypatch.setattr(os, "kill", lambda pid, number: driver.record_signal(signal.Signals(number).name, pid))
    return driver


def test_soft_limit_signalled_once_then_hard_limit_in_two_steps(driver: TimeLimitDriver) -> None:
    attempt = FakeAttempt(1, hard=5.0, soft=2.0)
    driver.limits.watch_attempt(attempt, 0.0)
    driver.advance_to(5.0 + TERMINATE_TIMEOUT_SECONDS)
    assert driver.signals == [(2.0, "SIGUSR1", 1), (5.0, "SIGTERM", 1), (5.0 + TERMINATE_TIMEOUT_SECONDS, "SIGKILL", 1)]
    assert attempt.timeouts == [(True, 2.0)]
    stop = driver.limits.finish_attempt(attempt)
    assert stop is not None
    assert (stop.limit, stop.signal) == (5.0, "SIGKILL")


def test_ended_attempt_gets_no_signal(driver: TimeLimitDriver) -> None:
    attempt = FakeAttempt(1, hard=5.0)
    driver.limits.watch_attempt(attempt, 0.0)
    driver.advance_to(4.9)
    assert driver.limits.finish_attempt(attempt) is None
    driver.limits.watch_attempt(FakeAttempt(1, hard=5.0, token="8"), 4.9)
    driver.advance_to(9.8)
    assert driver.signals == []


def test_extension_moves_both_limits_and_allows_second_soft_limit(driver: TimeLimitDriver) -> None:
    attempt = FakeAttempt(1, hard=5.0, soft=2.0)
    driver.control_table.numbers[8] = 7  # The attempt holds this slot.
    driver.limits.watch_attempt(attempt, 0.0)
    driver.advance_to(1.0)
    driver.control_table.seconds[8 + 4] = 3.0
    driver.advance_to(6.0)
    assert driver.signals == [(5.0, "SIGUSR1", 1)]
    driver.control_table.seconds[8 + 4] = 4.0
    driver.advance_to(9.0)
    assert [signal_name for _, signal_name, _ in driver.signals] == ["SIGUSR1", "SIGUSR1", "SIGTERM"]
    assert driver.signals[-1] == (9.0, "SIGTERM", 1)


def test_cancelled_attempt_terminated_after_timeout(driver: TimeLimitDriver) -> None:
    attempt = FakeAttempt(1)
    driver.limits.stop_attempt(attempt, "ann")
    driver.limits.stop_attempt(attempt, "bob")
    assert driver.control_table.numbers[8 + 1] == 7
    driver.advance_to(CANCEL_TIMEOUT_SECONDS - 0.1)
    assert driver.signals == []
    driver.advance_to(CANCEL_TIMEOUT_SECONDS + TERMINATE_TIMEOUT_SECONDS)
    assert driver.signals == [
        (CANCEL_TIMEOUT_SECONDS, "SIGTERM", 1),
        (CANCEL_TIMEOUT_SECONDS + TERMINATE_TIMEOUT_SECONDS, "SIGKILL", 1),
    ]
    stop = driver.limits.finish_attempt(attempt)
    assert stop is not None
    assert (stop.requested_by, stop.limit) == ("ann", None)


def test_cancelled_attempt_that_ends_itself_not_signalled(driver: TimeLimitDriver) -> None:
    attempt = FakeAttempt(1)
    driver.limits.stop_attempt(attempt, "ann")
    driver.advance_to(CANCEL_TIMEOUT_SECONDS - 0.1)
    assert driver.limits.finish_attempt(attempt) is None
    driver.advance_to(60.0)
    assert driver.signals == []


def test_many_attempts_terminated_at_their_limits(driver: TimeLimitDriver) -> None:
    attempts = [FakeAttempt(pid, hard=10.0 - pid, token=str(pid + 1)) for pid in range(4)]
    for attempt in attempts:
        driver.limits.watch_attempt(attempt, 0.0)
    driver.advance_to(10.0)
    assert [(at, pid) for at, signal_name, pid in driver.signals if signal_name == "SIGTERM"] == [
        (7.0, 3),
        (8.0, 2),
        (9.0, 1),
        (10.0, 0),
    ]


def test_limits_enforced_after_reconnection(driver: TimeLimitDriver) -> None:
    driver.limits.watch_attempt(FakeAttempt(1, hard=5.0), 0.0)
    driver.advance_to(1.0)
    driver._later.clear()
    driver.limits.attach_to_loop(driver, driver)
    driver.advance_to(5.0)
    assert driver.signals == [(5.0, "SIGTERM", 1)]


def test_attempt_of_ended_process_not_watched(driver: TimeLimitDriver) -> None:
    attempt = FakeAttempt(99, hard=1.0)
    driver.limits.watch_attempt(attempt, 0.0)
    driver.limits.stop_attempt(attempt, "ann")
    driver.advance_to(20.0)
    assert driver.signals == []
    assert driver.limits.finish_attempt(attempt) is None
