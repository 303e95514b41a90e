"""Reports with values that cannot be recorded: each fails its attempt, and blocks no other report."""

import json
from typing import Any

import pytest
import structlog.testing

from jobworker.clock import ManualClock
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.relay.event_recorder import record_events
from jobworker.relay.loop import Relay
from jobworker.settings import Settings
from jobworker.transport import keys
from tests.integration.relay.conftest import DispatchDriver

SEND = JobDefinition("send", "tasks.mail.send", policies={"retry": {"max_attempts": 5}})


def make_deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.fixture
def relay(driver: DispatchDriver, redis_url: str, clock: ManualClock) -> Relay:
    driver.resign_leadership()
    created = Relay(driver.database, redis_url, clock, Settings.from_environment({}))
    created.run_turn()
    return created


def record_report(
    driver: DispatchDriver, kind: EventKind, execution: str, data: str = "{}", attempt: int | str = 1
) -> None:
    fields: Any = {"kind": kind.value, "execution": execution, "attempt": attempt, "data": data}
    driver.client.xadd(keys.EVENTS, fields)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (EventKind.SUCCEEDED, f'{{"worker": "w1", "token": "t", "result": {make_deep(300)}}}'),
        (EventKind.SUCCEEDED, f'{{"worker": "w1", "token": "t", "result": {make_deep(5000)}}}'),
        (EventKind.SUCCEEDED, f'{{"worker": "w1", "token": "t", "result": "\\u0000", "metadata": {make_deep(600)}}}'),
        (EventKind.SUCCEEDED, '{"worker": "w1", "result": NaN}'),
        (EventKind.SUCCEEDED, '{"worker": ["w1"]}'),
        (EventKind.SUCCEEDED, "half of it {"),
        (EventKind.SUCCEEDED, "[]"),
        (EventKind.FAILED, '{"worker": "w1", "error": "text"}'),
        (EventKind.FAILED, '{"worker": "w1", "error": {}, "runtime": "long"}'),
        (EventKind.TIMED_OUT, '{"worker": "w1", "reason": {"a": 1}}'),
        (EventKind.RETRYING, '{"worker": "w1", "delay": 1e300}'),
        (EventKind.RETRYING, '{"worker": "w1", "delay": "soon"}'),
        (EventKind.LOST, '{"worker": {}}'),
    ],
)
def test_unrecordable_end_report_fails_the_execution(
    driver: DispatchDriver, relay: Relay, kind: EventKind, data: str
) -> None:
    refused, before, after = driver.submit_many(SEND, 3)
    relay.run_turn()
    record_report(driver, EventKind.SUCCEEDED, before, '{"worker": "w1", "result": 1}')
    record_report(driver, EventKind.RUNNING, refused, '{"worker": "w1", "token": "t"}')
    record_report(driver, kind, refused, data)
    record_report(driver, EventKind.SUCCEEDED, after, '{"worker": "w1", "result": 2}')
    relay.run_turn()
    row = driver.get_execution(refused)
    assert (row.state, row.attempt, row.dead_letter) == (ExecutionState.FAILED, 1, "open")
    assert row.error is not None
    assert row.error["type"] == "ReportRefused"
    assert row.error["message"].startswith(f"its report that it was {kind} cannot be recorded: ")
    assert [
        (driver.get_execution(execution).state, driver.get_execution(execution).result) for execution in (before, after)
    ] == [
        (ExecutionState.SUCCEEDED, 1),
        (ExecutionState.SUCCEEDED, 2),
    ]
    record_report(driver, EventKind.SUCCEEDED, refused, '{"worker": "w1", "result": 1}')
    relay.run_turn()
    assert driver.get_execution(refused).state is ExecutionState.FAILED, "the first end stays"


@pytest.mark.parametrize(
    ("kind", "data", "attempt"),
    [
        (EventKind.RUNNING, '{"worker": "w1"}', "9" * 30),
        (EventKind.RUNNING, '{"worker": []}', 1),
        (EventKind.PROGRESS, f'{{"done": {make_deep(300)}}}', 1),
        (EventKind.METADATA, f'{{"a": {make_deep(300)}}}', 1),
        (EventKind.METADATA, f'{{"a": {make_deep(5000)}}}', 1),
    ],
)
def test_unrecordable_report_that_is_no_end_is_skipped(
    driver: DispatchDriver, relay: Relay, kind: EventKind, data: str, attempt: int | str
) -> None:
    [execution] = driver.submit_many(SEND, 1)
    relay.run_turn()
    with structlog.testing.capture_logs() as logged:
        record_report(driver, kind, execution, data, attempt)
        record_report(driver, EventKind.SUCCEEDED, execution, '{"worker": "w1", "result": 1}')
        relay.run_turn()
    assert (driver.get_execution(execution).state, driver.get_execution(execution).result) == (
        ExecutionState.SUCCEEDED,
        1,
    )
    [error] = [entry for entry in logged if entry["log_level"] == "error"]
    assert error["event"] in ("event_unreadable", "report_refused")


def test_unstorable_metadata_does_not_affect_the_result(driver: DispatchDriver, relay: Relay) -> None:
    [execution] = driver.submit_many(SEND, 1)
    relay.run_turn()
    record_report(
        driver,
        EventKind.SUCCEEDED,
        execution,
        f'{{"result": 1, "metadata": {{"a": {make_deep(300)}}}, "progress": {{"done": 1}}}}',
    )
    relay.run_turn()
    assert (driver.get_execution(execution).state, driver.get_execution(execution).result) == (
        ExecutionState.SUCCEEDED,
        1,
    )


def test_report_is_not_blamed_for_an_error_in_every_turn(
    driver: DispatchDriver, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    [execution] = driver.submit_many(SEND, 1)
    relay.run_turn()
    record_report(driver, EventKind.SUCCEEDED, execution, json.dumps({"worker": "w1", "result": 1}))
    with monkeypatch.context() as broken:
        broken.setattr("jobworker.store.executions.due_executions.expire_executions", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                relay.run_turn()
    assert driver.get_execution(execution).state is ExecutionState.QUEUED
    relay.run_turn()
    assert (driver.get_execution(execution).state, driver.get_execution(execution).result) == (
        ExecutionState.SUCCEEDED,
        1,
    )


def test_report_refused_by_a_transient_error_is_recorded(
    driver: DispatchDriver, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    [execution] = driver.submit_many(SEND, 1)
    relay.run_turn()
    record_report(driver, EventKind.SUCCEEDED, execution, json.dumps({"worker": "w1", "result": 1}))
    once = [ValueError("deadlock, say")]

    def fails_once(*arguments: Any) -> Any:
        if once and arguments[1]:
            raise once.pop()
        return record_events(*arguments)

    monkeypatch.setattr("jobworker.relay.loop.record_events", fails_once)
    relay.run_turn()
    assert not once
    assert (driver.get_execution(execution).state, driver.get_execution(execution).result) == (
        ExecutionState.SUCCEEDED,
        1,
    )
