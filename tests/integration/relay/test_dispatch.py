"""Dispatch: rows become messages, declined messages are published again, cancellations wait for undecided workers."""

import json
from dataclasses import replace
from typing import Any

import pytest
import structlog.testing

from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import policies
from jobworker.relay.event_recorder import DeclinedMessage, record_events
from jobworker.store.executions import due_executions
from jobworker.transport.publisher import get_list_names
from tests.integration.relay.conftest import SEND, DispatchDriver

pytestmark = pytest.mark.every_redis


def list_headers(driver: DispatchDriver) -> list[dict[str, Any]]:
    """Return the headers of the messages in Redis."""
    return [json.loads(raw)["headers"] for raw in driver.pop_messages()]


def test_attempts_cut_short_use_no_retry(driver: DispatchDriver) -> None:
    execution = driver.submit()
    ends = [EventKind.LOST, EventKind.INTERRUPTED, EventKind.RETRYING, EventKind.INTERRUPTED]
    for attempt, kind in enumerate(ends, start=1):
        reports = [
            Event(f"{attempt}-1", EventKind.RUNNING, execution, attempt, {"worker": "w1"}),
            Event(f"{attempt}-2", kind, execution, attempt, {"worker": "w1", "delay": 0, "reason": "so"}),
        ]
        with driver.database.write() as connection:
            record_events(connection, reports)
            assert due_executions.release_due(connection, driver.clock.now(), 10) == 1
    driver.dispatcher.dispatch()
    [headers] = list_headers(driver)
    assert (headers["jobworker"]["attempt"], headers["retries"]) == (5, 1)


def test_declined_message_is_published_again(driver: DispatchDriver) -> None:
    execution = driver.submit()
    driver.dispatcher.dispatch()
    assert len(driver.pop_messages()) == 1
    driver.dispatcher.record_declined_messages([DeclinedMessage(execution, 1, SEND.task, "old")])
    assert driver.dispatcher.dispatch() == 0, "not at once: the same worker would take it again"

    driver.dispatcher.republish_declined_messages()
    assert driver.dispatcher.dispatch() == 1
    assert [headers["id"] for headers in list_headers(driver)] == [execution]
    driver.dispatcher.republish_declined_messages()
    assert driver.dispatcher.dispatch() == 0, "once for each time it was declined"


def test_messages_withdrawn_by_a_dead_relay_are_published_again(driver: DispatchDriver) -> None:
    executions = driver.submit_many(SEND, 3)
    driver.dispatcher.dispatch()
    # The result of this call is not recorded in SQL.
    assert len(driver.dispatcher.claims.withdraw(get_list_names("default"))) == 3
    assert (driver.list_queued(), driver.list_published()) == ([], set(executions))

    assert driver.dispatcher.republish_lost_messages(driver.clock.now()) == 3
    driver.dispatcher.dispatch()
    assert driver.list_queued() == executions


def test_missing_task_is_logged_once_per_worker(driver: DispatchDriver) -> None:
    executions = [driver.submit() for _ in range(3)]
    with structlog.testing.capture_logs() as logs:
        for name in ("old", "older"):
            driver.dispatcher.record_declined_messages(
                DeclinedMessage(execution, 1, SEND.task, name) for execution in executions
            )
        driver.dispatcher.record_declined_messages([DeclinedMessage(executions[0], 1, "tasks.other", "old")])
    assert [(line["event"], line["task"], line["worker"]) for line in logs] == [
        ("task_declined", SEND.task, "old"),
        ("task_declined", SEND.task, "older"),
        ("task_declined", "tasks.other", "old"),
    ]
    assert {line["log_level"] for line in logs} == {"warning"}


def test_cancellation_waits_while_a_worker_may_start_the_execution(driver: DispatchDriver) -> None:
    execution = driver.submit()
    driver.dispatcher.dispatch()
    driver.mark_fetched(execution)
    driver.request_cancel(execution)
    assert driver.dispatcher.cancel_queued() == 0
    assert (driver.get_execution(execution).state, driver.dispatcher.has_undecided_revocations) == (
        ExecutionState.QUEUED,
        True,
    )

    driver.mark_returned(execution)
    assert driver.dispatcher.cancel_queued() == 1
    assert (driver.get_execution(execution).state, driver.dispatcher.has_undecided_revocations) == (
        ExecutionState.CANCELLED,
        False,
    )


def test_undecided_cancellation_does_not_block_others(driver: DispatchDriver) -> None:
    held, free = driver.submit(), driver.submit()
    driver.dispatcher.dispatch()
    driver.mark_fetched(held)
    driver.request_cancel(held)
    driver.request_cancel(free)
    assert driver.dispatcher.cancel_queued() == 1
    assert (driver.get_execution(held).state, driver.get_execution(free).state) == (
        ExecutionState.QUEUED,
        ExecutionState.CANCELLED,
    )
    assert driver.dispatcher.has_undecided_revocations


@pytest.mark.parametrize("overrides", [None, {"time_limit": 5}])
def test_invalid_policy_is_ignored_and_logged_once(driver: DispatchDriver, overrides: dict[str, Any] | None) -> None:
    wrong = {"retry": {"max_attempts": 1001, "strategy": "fixed"}, "isolation": {"mode": "thread"}}
    broken = replace(SEND, name="broken", policies={**SEND.policies, **wrong})
    executions = driver.submit_many(broken, 2, overrides=overrides)
    valid = driver.submit()
    with structlog.testing.capture_logs() as logs:
        assert driver.dispatch() == [*executions, valid]
    [line] = [line for line in logs if line["event"] == "policies_left_out"]
    assert (line["log_level"], line["job"], line["revision"]) == ("error", "broken", 1)
    assert "max_attempts must be 1 to 1000" in line["why"]
    assert "mode must be one of" in line["why"]


def test_invalid_limit_does_not_block_dispatch(driver: DispatchDriver) -> None:
    limited = replace(SEND, policies=policies.normalize({"concurrency": {"limit": 1}})[0])
    executions = driver.submit_many(limited, 2)
    driver.put_job(replace(limited, policies={**limited.policies, "concurrency": {"limit": -1}}))
    with structlog.testing.capture_logs() as logs:
        assert driver.dispatch() == executions
    assert [line["job"] for line in logs if line["event"] == "limit_left_out"] == [SEND.name]
