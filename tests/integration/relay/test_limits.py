"""Limits by key and in total, rates, and fair order, also when a relay dies or is replaced."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
import redis

from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.store.executions import limit_usage
from tests.integration.relay.conftest import SEND, DispatchDriver

SECOND = dt.timedelta(seconds=1)


def make_limited_job(**declared: Any) -> JobDefinition:
    """Return a job with these policies."""
    normalized, problems = policies.normalize(declared)
    assert not problems
    return replace(SEND, policies=normalized)


TWO_PER_TENANT_JOB = make_limited_job(concurrency={"limit": 2, "key": "{tenant}"})


def make_tenant_values(name: str) -> dict[str, Any]:
    return {"parameters": {"tenant": name}}


def test_concurrency_limit_per_key_bounds_published_executions(driver: DispatchDriver) -> None:
    first = driver.submit_many(TWO_PER_TENANT_JOB, 5, **make_tenant_values("a"))
    other_tenant = driver.submit_many(TWO_PER_TENANT_JOB, 1, **make_tenant_values("b"))
    assert driver.dispatch() == [*first[:2], *other_tenant]
    assert driver.dispatch() == []

    driver.record_report(EventKind.RUNNING, first[0])
    assert driver.dispatch() == [], "it holds its place while it runs"
    driver.record_report(EventKind.SUCCEEDED, first[0])
    assert driver.dispatch() == [first[2]]


def test_concurrency_limit_without_key_applies_to_the_job(driver: DispatchDriver) -> None:
    executions = driver.submit_many(make_limited_job(concurrency={"limit": 3}), 5)
    free = driver.submit_many(replace(SEND, name="other"), 5)
    assert driver.dispatch() == [*executions[:3], *free]


def test_retrying_execution_releases_its_slot_and_acquires_one_again(driver: DispatchDriver) -> None:
    first, second = driver.submit_many(make_limited_job(concurrency={"limit": 1}), 2)
    assert driver.dispatch() == [first]
    driver.record_report(EventKind.RUNNING, first)
    driver.record_report(EventKind.RETRYING, first, delay=0, reason="again")
    assert driver.dispatch() == [second]
    driver.release_due()
    assert driver.get_execution(first).state is ExecutionState.QUEUED
    assert driver.dispatch() == []
    driver.record_report(EventKind.RUNNING, second)
    driver.record_report(EventKind.FAILED, second)
    assert driver.dispatch() == [first]


def test_changed_limit_applies_at_once_to_waiting_executions(driver: DispatchDriver) -> None:
    executions = driver.submit_many(make_limited_job(concurrency={"limit": 1}), 5)
    assert driver.dispatch() == executions[:1]
    driver.put_job(make_limited_job(concurrency={"limit": 3}))
    assert driver.dispatch() == executions[1:3]
    driver.put_job(make_limited_job())
    assert driver.dispatch() == executions[3:]


def test_total_limit_is_shared_evenly_among_keys(driver: DispatchDriver) -> None:
    definition = make_limited_job(concurrency={"limit": 10, "key": "{tenant}", "total": 4})
    many = driver.submit_many(definition, 50, **make_tenant_values("a"))
    few = driver.submit_many(definition, 4, **make_tenant_values("b"))
    assert driver.dispatch() == [*many[:2], *few[:2]]
    for execution in many[:2]:
        driver.record_report(EventKind.RUNNING, execution)
        driver.record_report(EventKind.SUCCEEDED, execution)
    assert driver.dispatch() == many[2:4], "b has its half already"


def test_keys_take_turns_for_one_slot(driver: DispatchDriver) -> None:
    definition = make_limited_job(concurrency={"limit": 1, "key": "{tenant}", "total": 1})
    waiting = {}
    for name in "abc":
        waiting[name] = driver.submit_many(definition, 4, **make_tenant_values(name))
        driver.clock.advance(1)
    owner = {execution: name for name, executions in waiting.items() for execution in executions}
    served = ""
    for _ in range(9):
        [execution] = driver.dispatch()
        served += owner[execution]
        driver.record_report(EventKind.RUNNING, execution)
        driver.record_report(EventKind.SUCCEEDED, execution)
        driver.clock.advance(1)
    assert sorted(served[:3]) == sorted(served[3:6]) == sorted(served[6:]) == ["a", "b", "c"]


def test_urgent_execution_of_a_key_is_published_first(driver: DispatchDriver) -> None:
    definition = make_limited_job(concurrency={"limit": 1, "key": "{tenant}"})
    slow = driver.submit(definition, priority=1, **make_tenant_values("a"))
    urgent = driver.submit(definition, priority=9, **make_tenant_values("a"))
    assert driver.dispatch() == [urgent]
    assert driver.list_queued(9) == [urgent]
    driver.record_report(EventKind.RUNNING, urgent)
    driver.record_report(EventKind.SUCCEEDED, urgent)
    assert driver.dispatch() == [slow]


def test_overtaken_execution_of_a_key_gets_one_turn_in_ten(driver: DispatchDriver) -> None:
    definition = make_limited_job(concurrency={"limit": 1, "key": "{tenant}"})
    slow = driver.submit(definition, priority=0, **make_tenant_values("a"))
    driver.clock.advance(61)
    driver.submit_many(definition, 20, priority=9, **make_tenant_values("a"))
    went = []
    for _ in range(10):
        [execution] = driver.dispatch()
        went.append(execution)
        driver.record_report(EventKind.RUNNING, execution)
        driver.record_report(EventKind.SUCCEEDED, execution)
    assert went.index(slow) == 9


def test_rate_limit_publishes_the_burst_and_then_at_its_rate(driver: DispatchDriver) -> None:
    executions = driver.submit_many(make_limited_job(rate_limit={"limit": 60, "per": 60, "burst": 3}), 8)
    assert driver.dispatch() == executions[:3]
    for execution in executions[:3]:
        driver.record_report(EventKind.RUNNING, execution)
    assert driver.dispatch() == []
    assert driver.dispatcher.next_permit_at == driver.clock.now() + SECOND
    driver.clock.advance(1)
    assert driver.dispatch() == executions[3:4]
    driver.record_report(EventKind.RUNNING, executions[3])
    driver.clock.advance(0.5)
    assert driver.dispatch() == []
    driver.clock.advance(1.5)
    assert driver.dispatch() == executions[4:6]


def test_rate_limit_accumulates_no_burst_while_workers_are_busy(driver: DispatchDriver) -> None:
    executions = driver.submit_many(make_limited_job(rate_limit={"limit": 1, "per": 1, "burst": 2}), 9)
    assert driver.dispatch() == executions[:2]
    driver.clock.advance(60)
    assert driver.dispatch() == [], "those two have not started"
    driver.record_report(EventKind.RUNNING, executions[0])
    assert driver.dispatch() == executions[2:3]


def test_full_rate_buckets_are_deleted(driver: DispatchDriver) -> None:
    driver.submit(make_limited_job(rate_limit={"limit": 1, "per": 10}))
    driver.dispatch()
    with driver.database.write() as connection:
        assert limit_usage.delete_full_buckets(connection, driver.clock.now()) == 0
        assert limit_usage.delete_full_buckets(connection, driver.clock.now() + 11 * SECOND) == 1


def test_replaced_relay_publishes_nothing(driver: DispatchDriver) -> None:
    old = driver.dispatcher
    [first, _] = driver.submit_many(make_limited_job(concurrency={"limit": 1}), 2)
    driver.dispatcher = driver.create_dispatcher("another")
    assert old.dispatch() == 0
    assert driver.list_queued() == []
    assert driver.dispatch() == [first]


def test_slot_is_acquired_before_the_message_is_published(
    driver: DispatchDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = driver.submit_many(make_limited_job(concurrency={"limit": 1}), 2)

    def fail(*_: object) -> None:
        raise redis.ConnectionError("gone in the middle")

    monkeypatch.setattr(driver.dispatcher.publisher, "publish", fail)
    with pytest.raises(redis.ConnectionError):
        driver.dispatcher.dispatch()
    monkeypatch.undo()
    assert driver.dispatch() == [], "nobody knows whether Redis has it"
    assert driver.dispatcher.republish_lost_messages(driver.clock.now()) == 1
    assert driver.list_queued() == [first]
    assert driver.get_execution(second).dispatched_at is None


def test_republished_message_keeps_its_slot(driver: DispatchDriver) -> None:
    first, _ = driver.submit_many(make_limited_job(concurrency={"limit": 1}), 2)
    driver.dispatch()
    driver.pop_messages()  # A worker runs the execution, and the relay has not read its report yet.
    driver.clock.advance(20)
    assert driver.dispatcher.republish_lost_messages(driver.clock.now() - SECOND) == 1
    assert driver.list_queued() == [first]
    assert driver.dispatch() == []
    assert driver.get_execution(first).dispatched_at == driver.clock.now()


def test_thousands_of_keys_get_their_turn(driver: DispatchDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobworker.relay.selection._MAX_KEYS", 10)
    definition = make_limited_job(concurrency={"limit": 1, "key": "{tenant}"})
    executions = [driver.submit(definition, **make_tenant_values(f"t{number:02}")) for number in range(25)]
    rounds = [driver.dispatch() for _ in range(4)]
    assert sorted(execution for batch in rounds for execution in batch) == sorted(executions)
    assert [len(batch) for batch in rounds] == [10, 10, 5, 0]
