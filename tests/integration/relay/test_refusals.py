"""Reports whose values cannot be recorded: each ends its attempt as a failure, and stops nothing else."""

import json
from typing import Any

import pytest
import structlog.testing

from jobworker.clock import ManualClock
from jobworker.domain.events import Kind
from jobworker.domain.execution import State
from jobworker.domain.job import Definition
from jobworker.relay.loop import Relay
from jobworker.relay.record import record
from jobworker.settings import Settings
from jobworker.transport import keys
from tests.integration.relay.conftest import World

SEND = Definition("send", "tasks.mail.send", policies={"retry": {"max_attempts": 5}})


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.fixture
def relay(world: World, redis_url: str, clock: ManualClock) -> Relay:
    world.resign_leadership()
    made = Relay(world.database, redis_url, clock, Settings.from_environment({}))
    made.run_turn()
    return made


def tell(world: World, kind: Kind, execution: str, data: str = "{}", attempt: int | str = 1) -> None:
    fields: Any = {"kind": kind.value, "execution": execution, "attempt": attempt, "data": data}
    world.client.xadd(keys.EVENTS, fields)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Kind.SUCCEEDED, f'{{"worker": "w1", "token": "t", "result": {deep(300)}}}'),
        (Kind.SUCCEEDED, f'{{"worker": "w1", "token": "t", "result": {deep(5000)}}}'),
        (Kind.SUCCEEDED, f'{{"worker": "w1", "token": "t", "result": "\\u0000", "metadata": {deep(600)}}}'),
        (Kind.SUCCEEDED, '{"worker": "w1", "result": NaN}'),
        (Kind.SUCCEEDED, '{"worker": ["w1"]}'),
        (Kind.SUCCEEDED, "half of it {"),
        (Kind.SUCCEEDED, "[]"),
        (Kind.FAILED, '{"worker": "w1", "error": "text"}'),
        (Kind.FAILED, '{"worker": "w1", "error": {}, "runtime": "long"}'),
        (Kind.TIMED_OUT, '{"worker": "w1", "reason": {"a": 1}}'),
        (Kind.RETRYING, '{"worker": "w1", "delay": 1e300}'),
        (Kind.RETRYING, '{"worker": "w1", "delay": "soon"}'),
        (Kind.LOST, '{"worker": {}}'),
    ],
)
def test_an_end_that_cannot_be_recorded_is_a_failure(world: World, relay: Relay, kind: Kind, data: str) -> None:
    refused, before, after = world.submit_many(SEND, 3)
    relay.run_turn()
    tell(world, Kind.SUCCEEDED, before, '{"worker": "w1", "result": 1}')
    tell(world, Kind.RUNNING, refused, '{"worker": "w1", "token": "t"}')
    tell(world, kind, refused, data)
    tell(world, Kind.SUCCEEDED, after, '{"worker": "w1", "result": 2}')
    relay.run_turn()
    row = world.get_execution(refused)
    assert (row.state, row.attempt, row.dead_letter) == (State.FAILED, 1, "open")
    assert row.error is not None
    assert row.error["type"] == "ReportRefused"
    assert row.error["message"].startswith(f"its report that it was {kind} cannot be recorded: ")
    assert [(world.get_execution(each).state, world.get_execution(each).result) for each in (before, after)] == [
        (State.SUCCEEDED, 1),
        (State.SUCCEEDED, 2),
    ]
    tell(world, Kind.SUCCEEDED, refused, '{"worker": "w1", "result": 1}')
    relay.run_turn()
    assert world.get_execution(refused).state is State.FAILED, "the first end stays"


@pytest.mark.parametrize(
    ("kind", "data", "attempt"),
    [
        (Kind.RUNNING, '{"worker": "w1"}', "9" * 30),
        (Kind.RUNNING, '{"worker": []}', 1),
        (Kind.PROGRESS, f'{{"done": {deep(300)}}}', 1),
        (Kind.METADATA, f'{{"a": {deep(300)}}}', 1),
        (Kind.METADATA, f'{{"a": {deep(5000)}}}', 1),
    ],
)
def test_what_is_no_end_is_passed_over(world: World, relay: Relay, kind: Kind, data: str, attempt: int | str) -> None:
    [execution] = world.submit_many(SEND, 1)
    relay.run_turn()
    with structlog.testing.capture_logs() as logged:
        tell(world, kind, execution, data, attempt)
        tell(world, Kind.SUCCEEDED, execution, '{"worker": "w1", "result": 1}')
        relay.run_turn()
    assert (world.get_execution(execution).state, world.get_execution(execution).result) == (State.SUCCEEDED, 1)
    [error] = [each for each in logged if each["log_level"] == "error"]
    assert error["event"] in ("event_unreadable", "report_refused")


def test_metadata_that_cannot_be_kept_leave_the_result_alone(world: World, relay: Relay) -> None:
    [execution] = world.submit_many(SEND, 1)
    relay.run_turn()
    tell(
        world,
        Kind.SUCCEEDED,
        execution,
        f'{{"result": 1, "metadata": {{"a": {deep(300)}}}, "progress": {{"done": 1}}}}',
    )
    relay.run_turn()
    assert (world.get_execution(execution).state, world.get_execution(execution).result) == (State.SUCCEEDED, 1)


def test_no_report_is_blamed_for_what_keeps_every_turn_from_being_written(
    world: World, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    [execution] = world.submit_many(SEND, 1)
    relay.run_turn()
    tell(world, Kind.SUCCEEDED, execution, json.dumps({"worker": "w1", "result": 1}))
    with monkeypatch.context() as broken:
        broken.setattr("jobworker.store.dispatch.expire", lambda *_: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                relay.run_turn()
    assert world.get_execution(execution).state is State.QUEUED
    relay.run_turn()
    assert (world.get_execution(execution).state, world.get_execution(execution).result) == (State.SUCCEEDED, 1)


def test_a_report_that_was_refused_in_passing_is_recorded(
    world: World, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    [execution] = world.submit_many(SEND, 1)
    relay.run_turn()
    tell(world, Kind.SUCCEEDED, execution, json.dumps({"worker": "w1", "result": 1}))
    once = [ValueError("deadlock, say")]

    def fails_once(*given: Any) -> Any:
        if once and given[1]:
            raise once.pop()
        return record(*given)

    monkeypatch.setattr("jobworker.relay.loop.record", fails_once)
    relay.run_turn()
    assert not once
    assert (world.get_execution(execution).state, world.get_execution(execution).result) == (State.SUCCEEDED, 1)
