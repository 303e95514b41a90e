"""Ends of started jobs and their reports: each end is reported once, and then its message is gone."""

import os
import signal
from typing import Any

import pytest

from tests.integration.attempt_outcomes.conftest import BATCHED_KINDS, KOMBU_KIND, WorkerUnderTest
from tests.polling import wait_until

_EVERY_KIND = pytest.mark.parametrize("worker_under_test", [*BATCHED_KINDS, KOMBU_KIND], indirect=True, ids=str)

#: Job → its parameters and the kind of its end report, for every pool.
_OUTCOMES: dict[str, tuple[dict[str, Any], str]] = {
    "noop": ({}, "succeeded"),
    "plain_celery_task": ({"left": 1}, "succeeded"),
    "fail": ({}, "failed"),
    "flaky": ({"good_attempt": 2}, "retrying"),
    "request_manual_retry": ({"countdown": 60}, "retrying"),
    "raise_ignore": ({}, "succeeded"),
    "exit_with_code": ({}, "failed"),
    "raise_memory_error": ({}, "failed"),
    "raise_keyboard_interrupt": ({}, "failed"),
    "raise_cancelled_error": ({}, "failed"),
    "raise_unpicklable": ({}, "failed"),
    "raise_base_exception": ({}, "failed"),
    "fail_before_start": ({}, "failed"),
    "return_unserializable": ({}, "failed"),
}


def expect_end(worker_under_test: WorkerUnderTest, execution: str, *kinds: str) -> dict[str, Any]:
    """Wait for the last of these reports, check their order and that no message is left; return the last one's data."""
    driver = worker_under_test.driver
    data = driver.wait_for_event(kinds[-1], execution)
    driver.wait_until_reported()
    assert driver.list_event_kinds(execution) == list(kinds)
    assert driver.count_starts(execution) <= 1
    assert worker_under_test.kind.transport == "stock" or driver.get_run_record(execution) == (1, "finished")
    return data


@_EVERY_KIND
@pytest.mark.parametrize("job", _OUTCOMES)
def test_job_reports_its_outcome(worker_under_test: WorkerUnderTest, job: str) -> None:
    parameters, kind = _OUTCOMES[job]
    expect_end(worker_under_test, worker_under_test.driver.publish(job, **parameters), "running", kind)


@_EVERY_KIND
@pytest.mark.parametrize("requeue", [False, True])
def test_reject_fails_the_attempt_and_is_not_requeued(worker_under_test: WorkerUnderTest, requeue: bool) -> None:
    report = expect_end(
        worker_under_test, worker_under_test.driver.publish("raise_reject", requeue=requeue), "running", "failed"
    )
    assert report["reason"] == "the job raised Reject"


@_EVERY_KIND
def test_soft_time_limit_ends_the_job(worker_under_test: WorkerUnderTest) -> None:
    """The limit is enforced in the pool's process, or for pools without processes in a process of the job."""
    execution = worker_under_test.driver.publish("hold", seconds=15, soft_time_limit=0.5)
    assert expect_end(worker_under_test, execution, "running", "timed_out")["reason"] == "soft time limit exceeded"


@_EVERY_KIND
def test_hard_time_limit_ends_the_job(worker_under_test: WorkerUnderTest) -> None:
    execution = worker_under_test.driver.publish("hold", seconds=15, time_limit=0.5)
    assert expect_end(worker_under_test, execution, "running", "timed_out")["reason"] == "hard time limit exceeded"
    assert not worker_under_test.driver.engine.count_ends()[execution, 1]


_PROCESSES = pytest.mark.parametrize("worker_under_test", [BATCHED_KINDS[0], KOMBU_KIND], indirect=True, ids=str)


@_PROCESSES
@pytest.mark.parametrize("job", ["kill_own_process", "exit_process"])
def test_attempt_whose_process_exits_is_lost(worker_under_test: WorkerUnderTest, job: str) -> None:
    report = expect_end(worker_under_test, worker_under_test.driver.publish(job), "running", "lost")
    assert report["reason"].startswith("the process that ran it ended: ")


@_PROCESSES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_attempt_whose_process_is_killed_is_lost(worker_under_test: WorkerUnderTest, number: signal.Signals) -> None:
    driver = worker_under_test.driver
    execution = driver.publish("hold", seconds=20)
    wait_until(lambda: driver.is_running(execution))
    os.kill(driver.get_attempt_pid(execution), number)
    expect_end(worker_under_test, execution, "running", "lost")


@_PROCESSES
@pytest.mark.parametrize("number", ["TERM", "KILL"])
def test_revoke_with_terminate_cancels_a_running_job(worker_under_test: WorkerUnderTest, number: str) -> None:
    driver = worker_under_test.driver
    execution = driver.publish("hold", seconds=20)
    wait_until(lambda: driver.is_running(execution))
    driver.control.revoke(execution, terminate=True, signal=number)
    report = expect_end(worker_under_test, execution, "running", "cancelled")
    assert report["reason"] == "terminated through Celery's remote control"
    assert not driver.engine.count_ends()[execution, 1]


@pytest.mark.parametrize("worker_under_test", BATCHED_KINDS[1:], indirect=True, ids=str)
def test_revoke_with_terminate_does_not_end_a_thread(worker_under_test: WorkerUnderTest) -> None:
    driver = worker_under_test.driver
    execution = driver.publish("hold", seconds=1)
    wait_until(lambda: driver.is_running(execution))
    driver.control.revoke(execution, terminate=True)
    assert expect_end(worker_under_test, execution, "running", "succeeded")["result"] == "held"


@_EVERY_KIND
def test_rate_limited_job_is_revoked(worker_under_test: WorkerUnderTest) -> None:
    driver = worker_under_test.driver
    driver.wait_for_event("succeeded", driver.publish("run_twice_a_minute"))
    execution = driver.publish("run_twice_a_minute")
    wait_until(driver.list_in_flight, what="the second one to be fetched, and held back by its rate limit")
    assert driver.control.revoke(execution, reply=True, limit=1)
    assert expect_end(worker_under_test, execution, "cancelled")["reason"] == "revoked through Celery's remote control"
    assert not driver.count_starts(execution)


@_EVERY_KIND
def test_revoked_queued_attempt_is_dropped_without_a_report(worker_under_test: WorkerUnderTest) -> None:
    """The relay revokes a queued execution and records its cancellation; the message has no further meaning."""
    driver = worker_under_test.driver
    execution = driver.publish("noop", is_revoked=True)
    driver.wait_until_reported()
    assert driver.list_event_kinds(execution) == []
    assert driver.get_run_record(execution) == (1, "revoked")
    assert not driver.count_starts(execution)
