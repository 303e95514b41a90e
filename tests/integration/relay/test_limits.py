"""Limits hold: by key and in total, at a rate, evenly shared, and also when a relay dies or is replaced."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
import redis

from jobworker.domain import policies
from jobworker.domain.events import Kind
from jobworker.domain.execution import State
from jobworker.domain.job import Definition
from jobworker.store import limits
from tests.integration.relay.conftest import SEND, World

SECOND = dt.timedelta(seconds=1)


def limited(**given: Any) -> Definition:
    """A job with these policies."""
    made, problems = policies.normalise(given)
    assert not problems
    return replace(SEND, policies=made)


TWO_PER_TENANT = limited(concurrency={"limit": 2, "key": "{tenant}"})


def tenant(name: str) -> dict[str, Any]:
    return {"parameters": {"tenant": name}}


def test_of_each_key_as_many_go_out_as_may_run(world: World) -> None:
    first = world.submit_many(TWO_PER_TENANT, 5, **tenant("a"))
    other = world.submit_many(TWO_PER_TENANT, 1, **tenant("b"))
    assert world.dispatch() == [*first[:2], *other]
    assert world.dispatch() == []

    world.record_report(Kind.RUNNING, first[0])
    assert world.dispatch() == [], "it holds its place while it runs"
    world.record_report(Kind.SUCCEEDED, first[0])
    assert world.dispatch() == [first[2]]


def test_without_a_key_the_limit_is_the_jobs(world: World) -> None:
    executions = world.submit_many(limited(concurrency={"limit": 3}), 5)
    free = world.submit_many(replace(SEND, name="other"), 5)
    assert world.dispatch() == [*executions[:3], *free]


def test_an_attempt_that_waits_for_its_retry_holds_no_place_and_has_to_get_one_again(world: World) -> None:
    one, two = world.submit_many(limited(concurrency={"limit": 1}), 2)
    assert world.dispatch() == [one]
    world.record_report(Kind.RUNNING, one)
    world.record_report(Kind.RETRYING, one, delay=0, reason="again")
    assert world.dispatch() == [two]
    world.release_due()
    assert world.get_execution(one).state is State.QUEUED
    assert world.dispatch() == []
    world.record_report(Kind.RUNNING, two)
    world.record_report(Kind.FAILED, two)
    assert world.dispatch() == [one]


def test_a_limit_that_is_changed_holds_at_once_for_what_waits(world: World) -> None:
    executions = world.submit_many(limited(concurrency={"limit": 1}), 5)
    assert world.dispatch() == executions[:1]
    world.put_job(limited(concurrency={"limit": 3}))
    assert world.dispatch() == executions[1:3]
    world.put_job(limited())
    assert world.dispatch() == executions[3:]


def test_a_total_is_shared_evenly_whoever_was_first(world: World) -> None:
    definition = limited(concurrency={"limit": 10, "key": "{tenant}", "total": 4})
    many = world.submit_many(definition, 50, **tenant("a"))
    few = world.submit_many(definition, 4, **tenant("b"))
    assert world.dispatch() == [*many[:2], *few[:2]]
    for execution in many[:2]:
        world.record_report(Kind.RUNNING, execution)
        world.record_report(Kind.SUCCEEDED, execution)
    assert world.dispatch() == many[2:4], "b has its half already"


def test_with_one_place_keys_take_turns(world: World) -> None:
    definition = limited(concurrency={"limit": 1, "key": "{tenant}", "total": 1})
    waiting = {}
    for name in "abc":
        waiting[name] = world.submit_many(definition, 4, **tenant(name))
        world.clock.advance(1)
    owner = {execution: name for name, executions in waiting.items() for execution in executions}
    served = ""
    for _ in range(9):
        [execution] = world.dispatch()
        served += owner[execution]
        world.record_report(Kind.RUNNING, execution)
        world.record_report(Kind.SUCCEEDED, execution)
        world.clock.advance(1)
    assert sorted(served[:3]) == sorted(served[3:6]) == sorted(served[6:]) == ["a", "b", "c"]


def test_the_more_urgent_of_a_key_goes_first(world: World) -> None:
    definition = limited(concurrency={"limit": 1, "key": "{tenant}"})
    slow = world.submit(definition, priority=1, **tenant("a"))
    urgent = world.submit(definition, priority=9, **tenant("a"))
    assert world.dispatch() == [urgent]
    assert world.list_queued(9) == [urgent]
    world.record_report(Kind.RUNNING, urgent)
    world.record_report(Kind.SUCCEEDED, urgent)
    assert world.dispatch() == [slow]


def test_what_was_overtaken_in_its_key_for_long_has_one_turn_in_ten(world: World) -> None:
    definition = limited(concurrency={"limit": 1, "key": "{tenant}"})
    slow = world.submit(definition, priority=0, **tenant("a"))
    world.clock.advance(61)
    world.submit_many(definition, 20, priority=9, **tenant("a"))
    went = []
    for _ in range(10):
        [execution] = world.dispatch()
        went.append(execution)
        world.record_report(Kind.RUNNING, execution)
        world.record_report(Kind.SUCCEEDED, execution)
    assert went.index(slow) == 9


def test_a_rate_lets_the_burst_through_and_then_one_after_the_other(world: World) -> None:
    executions = world.submit_many(limited(rate_limit={"limit": 60, "per": 60, "burst": 3}), 8)
    assert world.dispatch() == executions[:3]
    for execution in executions[:3]:
        world.record_report(Kind.RUNNING, execution)
    assert world.dispatch() == []
    assert world.dispatcher.next_permit_at == world.clock.now() + SECOND
    world.clock.advance(1)
    assert world.dispatch() == executions[3:4]
    world.record_report(Kind.RUNNING, executions[3])
    world.clock.advance(0.5)
    assert world.dispatch() == []
    world.clock.advance(1.5)
    assert world.dispatch() == executions[4:6]


def test_while_workers_are_busy_no_heap_grows_that_would_start_at_once(world: World) -> None:
    executions = world.submit_many(limited(rate_limit={"limit": 1, "per": 1, "burst": 2}), 9)
    assert world.dispatch() == executions[:2]
    world.clock.advance(60)
    assert world.dispatch() == [], "those two have not started"
    world.record_report(Kind.RUNNING, executions[0])
    assert world.dispatch() == executions[2:3]


def test_buckets_that_are_full_are_forgotten(world: World) -> None:
    world.submit(limited(rate_limit={"limit": 1, "per": 10}))
    world.dispatch()
    with world.database.write() as connection:
        assert limits.forget_full(connection, world.clock.now()) == 0
        assert limits.forget_full(connection, world.clock.now() + 11 * SECOND) == 1


def test_a_relay_that_was_replaced_while_it_decided_publishes_nothing(world: World) -> None:
    old = world.dispatcher
    [first, _] = world.submit_many(limited(concurrency={"limit": 1}), 2)
    world.dispatcher = world.create_dispatcher("another")
    assert old.dispatch() == 0
    assert world.list_queued() == []
    assert world.dispatch() == [first]


def test_a_place_is_taken_before_anybody_can_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world.submit_many(limited(concurrency={"limit": 1}), 2)

    def fail(*_: object) -> None:
        raise redis.ConnectionError("gone in the middle")

    monkeypatch.setattr(world.dispatcher.publisher, "publish", fail)
    with pytest.raises(redis.ConnectionError):
        world.dispatcher.dispatch()
    monkeypatch.undo()
    assert world.dispatch() == [], "nobody knows whether Redis has it"
    assert world.dispatcher.republish_lost_messages(world.clock.now()) == 1
    assert world.list_queued() == [first]
    assert world.get_execution(second).dispatched_at is None


def test_a_message_that_seems_lost_goes_out_again_and_its_place_stays_taken(world: World) -> None:
    first, _ = world.submit_many(limited(concurrency={"limit": 1}), 2)
    world.dispatch()
    world.pop_messages()  # A worker has it and runs it, and the relay has not heard of it yet.
    world.clock.advance(20)
    assert world.dispatcher.republish_lost_messages(world.clock.now() - SECOND) == 1
    assert world.list_queued() == [first]
    assert world.dispatch() == []
    assert world.get_execution(first).dispatched_at == world.clock.now()


def test_thousands_of_keys_have_their_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobworker.relay.choose._MOST_KEYS", 10)
    definition = limited(concurrency={"limit": 1, "key": "{tenant}"})
    executions = [world.submit(definition, **tenant(f"t{number:02}")) for number in range(25)]
    rounds = [world.dispatch() for _ in range(4)]
    assert sorted(execution for each in rounds for execution in each) == sorted(executions)
    assert [len(each) for each in rounds] == [10, 10, 5, 0]
