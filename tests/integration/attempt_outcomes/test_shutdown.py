"""Shutdown of workers and the messages that they have in flight. Each worker has its own queue."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import LEASE_SECONDS
from tests.integration.attempt_outcomes.conftest import BATCHED_KINDS, KOMBU_KIND, WorkerKind
from tests.integration.attempt_outcomes.message_driver import MessageDriver, run_message_driver
from tests.polling import wait_until
from tests.servers import ServerProcess

#: Longer than a lease, so a worker without heartbeats is given up.
_LONG_JOB_SECONDS = LEASE_SECONDS + 2

#: Kinds of workers whose jobs can be interrupted.
_INTERRUPTIBLE_KINDS = [BATCHED_KINDS[0], KOMBU_KIND]

#: Kind of a worker that is stopped by remote control.
_STOPPED_KIND = WorkerKind("prefork", "asked")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[MessageDriver]:
    """Message driver without workers."""
    with run_message_driver(tmp_path) as driver:
        yield driver


def _start_worker(driver: MessageDriver, kind: WorkerKind, soft: float = 0, slots: int = 2) -> ServerProcess:
    options = ["-Q", str(kind), "-n", f"{kind}@here", "-c", str(slots), "--", f"worker.soft_shutdown_timeout={soft}"]
    return driver.start_worker(kind.pool, *options, JOBWORKER_TRANSPORT="stock" if kind is KOMBU_KIND else "batched")


def _start_long_job(driver: MessageDriver, kind: WorkerKind, seconds: float) -> str:
    execution = driver.publish("hold", str(kind), seconds=seconds)
    wait_until(lambda: driver.is_running(execution), what=f"a job on {kind}")
    return execution


def _expect_clean_shutdown(driver: MessageDriver, *workers: ServerProcess) -> None:
    """Check that the workers ended and deregistered, none was given up, and no message is in flight."""
    driver.wait_until_ended(*workers)
    assert driver.list_event_kinds() == [], "worker_lost"
    assert driver.list_in_flight() == []
    assert driver.list_workers() == set()
    assert all("Unrecoverable error" not in worker.log.read_text() for worker in workers)


def test_warm_shutdown_finishes_jobs_and_keeps_the_heartbeat(driver: MessageDriver) -> None:
    """The shutdown is requested by a signal, or for the worker with a name by remote control."""
    kinds = [*BATCHED_KINDS, KOMBU_KIND, _STOPPED_KIND]
    workers = {kind: _start_worker(driver, kind, slots=1) for kind in kinds}
    held = {kind: _start_long_job(driver, kind, _LONG_JOB_SECONDS) for kind in kinds}
    queued = [driver.publish("noop", str(kind)) for kind in kinds]
    for kind, worker in workers.items():
        if kind is not _STOPPED_KIND:
            worker.send_signal(signal.SIGTERM)
    driver.control.shutdown(destination=[f"{_STOPPED_KIND}@here"])

    _expect_clean_shutdown(driver, *workers.values())
    for kind in kinds:
        assert driver.list_event_kinds(held[kind]) == ["running", "succeeded"], kind
        assert driver.count_queued(str(kind)) == 1, "nothing new is begun"
    assert [driver.list_event_kinds(execution) for execution in queued] == [[]] * len(kinds)


def test_soft_shutdown_interrupts_jobs_past_its_timeout(driver: MessageDriver) -> None:
    workers = [_start_worker(driver, kind, soft=LEASE_SECONDS + 1) for kind in _INTERRUPTIBLE_KINDS]
    short = [_start_long_job(driver, kind, 1) for kind in _INTERRUPTIBLE_KINDS]
    long = [_start_long_job(driver, kind, 60) for kind in _INTERRUPTIBLE_KINDS]
    for worker in workers:
        worker.send_signal(signal.SIGQUIT)
    _expect_clean_shutdown(driver, *workers)
    assert [driver.list_event_kinds(execution) for execution in short] == [["running", "succeeded"]] * 2
    assert [driver.list_event_kinds(execution) for execution in long] == [["running", "interrupted"]] * 2
    assert set(driver.engine.count_ends()) == {(execution, 1) for execution in short}


def test_second_signal_makes_soft_shutdown_cold(driver: MessageDriver) -> None:
    kind = BATCHED_KINDS[0]
    worker = _start_worker(driver, kind, soft=60)
    held = _start_long_job(driver, kind, 60)
    worker.send_signal(signal.SIGQUIT)
    wait_until(lambda: "worker_stops_softly" in worker.log.read_text())
    worker.send_signal(signal.SIGQUIT)
    _expect_clean_shutdown(driver, worker)
    assert driver.list_event_kinds(held) == ["running", "interrupted"]


@pytest.mark.parametrize("first", [(), (signal.SIGTERM,)], ids=["at once", "while it is warm"])
def test_cold_shutdown_interrupts_running_jobs(driver: MessageDriver, first: tuple[signal.Signals, ...]) -> None:
    workers = [_start_worker(driver, kind) for kind in _INTERRUPTIBLE_KINDS]
    held = [_start_long_job(driver, kind, 60) for kind in [*_INTERRUPTIBLE_KINDS, *_INTERRUPTIBLE_KINDS]]
    for worker in workers:
        for number in first:
            worker.send_signal(number)
    wait_until(lambda: all("Warm shutdown" in worker.log.read_text() for worker in workers) or not first)
    for worker in workers:
        worker.send_signal(signal.SIGQUIT)
    _expect_clean_shutdown(driver, *workers)
    assert [driver.list_event_kinds(execution) for execution in held] == [["running", "interrupted"]] * 4
    assert not driver.engine.count_ends()


def test_cold_shutdown_waits_for_threads(driver: MessageDriver) -> None:
    """The shutdown is requested by SIGQUIT, or by two Ctrl-C."""
    by_signal, by_keyboard = BATCHED_KINDS[1:], [WorkerKind("threads", "keyboard"), WorkerKind("solo", "keyboard")]
    workers = {kind: _start_worker(driver, kind) for kind in [*by_signal, *by_keyboard]}
    held = [_start_long_job(driver, kind, 3) for kind in workers]
    for kind in by_signal:
        workers[kind].send_signal(signal.SIGQUIT)
    for kind in by_keyboard:
        workers[kind].send_signal(signal.SIGINT)
        wait_until(lambda kind=kind: "Warm shutdown" in workers[kind].log.read_text())  # type: ignore[misc]
        workers[kind].send_signal(signal.SIGINT)
    _expect_clean_shutdown(driver, *workers.values())
    assert [driver.list_event_kinds(execution) for execution in held] == [["running", "succeeded"]] * 4


def test_shutdown_returns_rate_limited_messages_unstarted(driver: MessageDriver) -> None:
    """A fetched message that a rate limit holds back is returned as the same attempt."""
    workers = {kind: _start_worker(driver, kind) for kind in BATCHED_KINDS}
    held = []
    for kind in BATCHED_KINDS:
        driver.wait_for_event("succeeded", driver.publish("run_hourly", str(kind)))
        held.append(driver.publish("run_hourly", str(kind)))
    wait_until(lambda: len(driver.list_in_flight()) == len(held), what="the second ones to be fetched")
    for worker in workers.values():
        worker.send_signal(signal.SIGTERM)
    _expect_clean_shutdown(driver, *workers.values())
    assert [driver.list_event_kinds(execution) for execution in held] == [[]] * 3
    assert [driver.count_queued(str(kind)) for kind in BATCHED_KINDS] == [1] * 3
    assert [driver.get_run_record(execution) for execution in held] == [(0, "finished")] * 3


def test_killed_worker_loses_started_attempts_only(driver: MessageDriver) -> None:
    kinds = [*BATCHED_KINDS, KOMBU_KIND]
    workers = {kind: _start_worker(driver, kind) for kind in kinds}
    held = {kind: _start_long_job(driver, kind, 60) for kind in kinds}
    for worker in workers.values():
        worker.terminate(signal.SIGKILL)
    wait_until(lambda: driver.reap_silent_workers() and not driver.list_workers(), what="all of them to be given up")
    assert driver.list_event_kinds() == ["worker_lost"] * len(kinds)
    assert [driver.list_event_kinds(held[kind]) for kind in BATCHED_KINDS] == [["running", "lost"]] * 3


def test_pool_processes_are_replaced_between_jobs(driver: MessageDriver) -> None:
    kind = BATCHED_KINDS[0]
    driver.start_worker("prefork", "-Q", str(kind), "-c", "1", "--max-tasks-per-child", "2")
    done = [driver.publish("noop", str(kind)) for _ in range(7)]
    for execution in done:
        driver.wait_for_event("succeeded", execution)
    assert {tuple(driver.list_event_kinds(execution)) for execution in done} == {("running", "succeeded")}
    processes = [driver.get_attempt_pid(execution) for execution in done]
    assert len(set(processes)) == 4
    driver.wait_until_empty(str(kind))
