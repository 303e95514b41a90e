"""How a job that has started can end, and what is told about it: each once, and then its message is gone."""

import os
import signal
from typing import Any

import pytest

from tests.integration.attempt_outcomes.conftest import BATCHED_KINDS, KOMBU_KIND, WorkerUnderTest
from tests.polling import until

_EVERY_KIND = pytest.mark.parametrize("worker_under_test", [*BATCHED_KINDS, KOMBU_KIND], indirect=True, ids=str)

#: What a job does → how it ends, whatever the pool.
_OUTCOMES: dict[str, tuple[dict[str, Any], str]] = {
    "noop": ({}, "succeeded"),
    "plain_celery_task": ({"left": 1}, "succeeded"),
    "fails": ({}, "failed"),
    "flaky": ({"good_attempt": 2}, "retrying"),
    "asks_for_retry": ({"countdown": 60}, "retrying"),
    "ignores": ({}, "succeeded"),
    "exits": ({}, "failed"),
    "runs_out_of_memory": ({}, "failed"),
    "is_interrupted": ({}, "failed"),
    "cancels_itself": ({}, "failed"),
    "raises_what_cannot_be_pickled": ({}, "failed"),
    "raises_no_exception": ({}, "failed"),
    "is_never_ready": ({}, "failed"),
    "returns_rubbish": ({}, "failed"),
}


def expect_end(worker_under_test: WorkerUnderTest, execution: str, *kinds: str) -> dict[str, Any]:
    """Wait for the end; these are the reports, in order and once each, and nothing is left. The data of the last."""
    post = worker_under_test.driver
    data = post.wait_for_event(kinds[-1], execution)
    post.wait_until_reported()
    assert post.list_event_kinds(execution) == list(kinds)
    assert post.count_starts(execution) <= 1
    assert worker_under_test.kind.transport == "stock" or post.get_run_record(execution) == (1, "finished")
    return data


@_EVERY_KIND
@pytest.mark.parametrize("job", _OUTCOMES)
def test_a_job_comes_to_its_end(worker_under_test: WorkerUnderTest, job: str) -> None:
    parameters, kind = _OUTCOMES[job]
    expect_end(worker_under_test, worker_under_test.driver.publish(job, **parameters), "running", kind)


@_EVERY_KIND
@pytest.mark.parametrize("requeue", [False, True])
def test_reject_is_a_failure_and_never_runs_again(worker_under_test: WorkerUnderTest, requeue: bool) -> None:
    told = expect_end(
        worker_under_test, worker_under_test.driver.publish("rejects", requeue=requeue), "running", "failed"
    )
    assert told["reason"] == "the job raised Reject"


@_EVERY_KIND
def test_the_soft_limit_is_kept(worker_under_test: WorkerUnderTest) -> None:
    """By the process of the pool, or where there is none, by one of the job's own."""
    execution = worker_under_test.driver.publish("hold", seconds=15, soft_time_limit=0.5)
    assert expect_end(worker_under_test, execution, "running", "timed_out")["reason"] == "soft time limit exceeded"


@_EVERY_KIND
def test_the_hard_limit_is_kept(worker_under_test: WorkerUnderTest) -> None:
    execution = worker_under_test.driver.publish("hold", seconds=15, time_limit=0.5)
    assert expect_end(worker_under_test, execution, "running", "timed_out")["reason"] == "hard time limit exceeded"
    assert not worker_under_test.driver.engine.count_ends()[execution, 1]


_PROCESSES = pytest.mark.parametrize("worker_under_test", [BATCHED_KINDS[0], KOMBU_KIND], indirect=True, ids=str)


@_PROCESSES
@pytest.mark.parametrize("job", ["kills_itself", "leaves_at_once"])
def test_a_process_that_is_gone_is_a_lost_attempt(worker_under_test: WorkerUnderTest, job: str) -> None:
    told = expect_end(worker_under_test, worker_under_test.driver.publish(job), "running", "lost")
    assert told["reason"].startswith("the process that ran it ended: ")


@_PROCESSES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_somebody_kills_is_a_lost_attempt(
    worker_under_test: WorkerUnderTest, number: signal.Signals
) -> None:
    post = worker_under_test.driver
    execution = post.publish("hold", seconds=20)
    until(lambda: post.is_running(execution))
    os.kill(post.get_attempt_pid(execution), number)
    expect_end(worker_under_test, execution, "running", "lost")


@_PROCESSES
@pytest.mark.parametrize("number", ["TERM", "KILL"])
def test_a_running_job_is_terminated(worker_under_test: WorkerUnderTest, number: str) -> None:
    post = worker_under_test.driver
    execution = post.publish("hold", seconds=20)
    until(lambda: post.is_running(execution))
    post.control.revoke(execution, terminate=True, signal=number)
    told = expect_end(worker_under_test, execution, "running", "cancelled")
    assert told["reason"] == "terminated through Celery's remote control"
    assert not post.engine.count_ends()[execution, 1]


@pytest.mark.parametrize("worker_under_test", BATCHED_KINDS[1:], indirect=True, ids=str)
def test_threads_cannot_be_terminated(worker_under_test: WorkerUnderTest) -> None:
    post = worker_under_test.driver
    execution = post.publish("hold", seconds=1)
    until(lambda: post.is_running(execution))
    post.control.revoke(execution, terminate=True)
    assert expect_end(worker_under_test, execution, "running", "succeeded")["result"] == "held"


@_EVERY_KIND
def test_a_job_that_is_held_back_is_revoked(worker_under_test: WorkerUnderTest) -> None:
    post = worker_under_test.driver
    post.wait_for_event("succeeded", post.publish("rarely"))
    execution = post.publish("rarely")
    until(post.list_in_flight, what="the second one to be fetched, and held back by its rate limit")
    assert post.control.revoke(execution, reply=True, limit=1)
    assert expect_end(worker_under_test, execution, "cancelled")["reason"] == "revoked through Celery's remote control"
    assert not post.count_starts(execution)


@_EVERY_KIND
def test_a_queued_attempt_that_was_revoked_is_dropped_in_silence(worker_under_test: WorkerUnderTest) -> None:
    """The relay revokes and records what is cancelled while it is queued; its message means nothing any more."""
    post = worker_under_test.driver
    execution = post.publish("noop", is_revoked=True)
    post.wait_until_reported()
    assert post.list_event_kinds(execution) == []
    assert post.get_run_record(execution) == (1, "revoked")
    assert not post.count_starts(execution)
