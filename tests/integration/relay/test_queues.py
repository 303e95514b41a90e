"""What is urgent finds room whatever waits; what was overtaken has its share; a paused queue lets nothing start."""

import json
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from jobworker.domain.events import EventKind
from jobworker.relay.choose import DispatchCandidate
from jobworker.store import dispatch, queues, schema
from jobworker.store.queues import QueueRow
from jobworker.transport.publisher import Message
from tests.conformance.worlds import insert_executions, make_execution
from tests.integration.relay.conftest import SEND, DispatchDriver
from tests.integration.relay.test_limits import make_limited_job

pytestmark = pytest.mark.every_redis


def set_paused(world: DispatchDriver, paused: bool = True) -> None:
    with world.database.write() as connection:
        queues.upsert_many(connection, ["default"], world.clock.now())
        queues.update_pause(connection, QueueRow("default", world.clock.now(), "ann") if paused else QueueRow("default"))


def run_messages(world: DispatchDriver, *executions: str) -> None:
    """As if workers had taken these messages, and done the work."""
    for execution in executions:
        world.record_report(EventKind.RUNNING, execution)
        world.record_report(EventKind.SUCCEEDED, execution)


def test_the_feed_is_full_for_what_is_no_more_urgent_only(world: DispatchDriver) -> None:
    world.dispatcher = world.create_dispatcher(feed=3)
    usual = world.submit_many(SEND, 5)
    assert world.dispatch() == usual[:3]
    assert world.dispatch() == []
    slow = world.submit(priority=1)
    urgent = world.submit_many(SEND, 5, priority=9)
    assert world.dispatch() == urgent[:3]
    assert world.list_queued(9) == urgent[:3]
    assert world.get_execution(slow).dispatched_at is None


def test_each_priority_goes_to_its_list_the_urgent_first(world: DispatchDriver) -> None:
    executions = [world.submit(priority=priority) for priority in range(10)]
    assert world.dispatch() == executions
    assert [world.list_queued(priority) for priority in (9, 5, 2, 0)] == [
        executions[:6:-1],
        executions[6:3:-1],
        executions[3:0:-1],
        executions[:1],
    ]


def test_while_there_is_no_room_for_all_one_in_ten_was_overtaken_for_long(world: DispatchDriver) -> None:
    world.dispatcher = world.create_dispatcher(feed=20)
    old = world.submit_many(SEND, 3, priority=0)
    world.dispatcher.feed = 20
    urgent = world.submit_many(SEND, 100, priority=9)
    assert world.dispatch() == urgent[:20], "nobody was overtaken for long yet"
    world.clock.advance(61)
    world.client.delete("default")
    assert world.dispatch() == [*old[:2], *urgent[20:40]]
    assert world.list_queued(9)[-2:] == old[:2], "in the list of those that overtook them"
    assert len(world.list_queued(9)) == 22
    assert world.dispatch() == [], "more than the feed is there already"


def test_without_a_crowd_nobody_is_lifted(world: DispatchDriver) -> None:
    old = world.submit_many(SEND, 15, priority=0)
    world.clock.advance(1000)
    urgent = world.submit(priority=9)
    assert world.dispatch() == [*old, urgent]
    assert (world.list_queued(9), world.list_queued(0)) == ([urgent], old)


def test_what_waits_in_redis_for_long_while_it_is_overtaken_goes_back(world: DispatchDriver) -> None:
    world.dispatcher = world.create_dispatcher(feed=20)
    old = world.submit_many(SEND, 2, priority=0)
    assert world.dispatch() == old
    world.clock.advance(61)
    world.dispatcher.withdraw_aged_messages()
    assert world.list_queued(0) == old, "nothing overtakes them"
    world.submit_many(SEND, 100, priority=9)
    assert len(world.dispatch()) == 20
    world.dispatcher.withdraw_aged_messages()
    assert (world.list_queued(0), world.list_published() & set(old)) == ([], set())
    world.client.delete("default")
    assert set(old) <= set(world.dispatch())
    assert world.list_queued(9)[-2:] == old


def test_a_message_is_not_lost_because_another_list_was_worked_off(world: DispatchDriver) -> None:
    world.dispatcher = world.create_dispatcher(feed=10)
    [old] = world.submit_many(SEND, 1, priority=0)
    world.clock.advance(61)
    world.submit_many(SEND, 30, priority=9)
    went = world.dispatch()
    assert old in went
    assert old in world.list_queued(9)
    world.clock.advance(20)
    assert world.dispatcher.republish_lost_messages(world.clock.now()) == 0


def test_a_paused_queue_publishes_nothing_and_takes_back_what_lies_there(world: DispatchDriver) -> None:
    executions = world.submit_many(SEND, 3)
    foreign = json.dumps({"headers": {"task": "plain"}, "body": ""})
    world.dispatch()
    world.client.rpush("default\x06\x163", foreign)
    world.client.lpush("default\x06\x163", foreign)
    set_paused(world)
    assert world.dispatch() == []
    assert world.list_published() == set()
    assert world.pop_messages() == [foreign, foreign], "what others have sent stays"
    world.clock.advance(1)
    more = world.submit()
    assert world.dispatch() == []
    set_paused(world, paused=False)
    assert world.dispatch() == [*executions, more]
    assert world.list_queued() == [*executions, more]


def test_what_others_left_in_a_paused_queue_says_nothing_about_the_next_pause(world: DispatchDriver) -> None:
    world.submit()
    world.client.lpush("default", *[json.dumps({"headers": {}})] * 3)
    set_paused(world)
    world.dispatch()
    set_paused(world, paused=False)
    world.client.delete("default")
    world.submit_many(SEND, 2)
    assert len(world.dispatch()) == 3
    world.clock.advance(1)
    set_paused(world)
    world.dispatch()
    assert world.list_published() == set()


def test_what_a_worker_has_fetched_is_not_taken_back(world: DispatchDriver) -> None:
    execution = world.submit()
    world.dispatch()
    world.mark_fetched(execution)
    world.pop_messages()
    set_paused(world)
    world.dispatch()
    assert world.list_published() == {execution}


def test_a_copy_of_what_a_worker_has_is_dropped_and_the_place_stays_taken(world: DispatchDriver) -> None:
    definition = make_limited_job(concurrency={"limit": 1})
    first, _ = world.submit_many(definition, 2)
    assert world.dispatch() == [first]
    world.mark_fetched(first)
    set_paused(world)
    world.dispatch()
    assert (world.list_queued(), world.list_published()) == ([], {first})
    set_paused(world, paused=False)
    assert world.dispatch() == []


def test_taking_back_leaves_alone_what_is_no_list(world: DispatchDriver) -> None:
    world.submit()
    world.dispatch()
    world.client.set("default", "something else")
    assert world.dispatcher.claims.withdraw(["default", "nothing"]) == []
    assert world.client.get("default") == "something else"


def _count_queries(world: DispatchDriver) -> tuple[int, int]:
    """How many statements and Redis commands one round takes."""
    statements: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            statements.append(statement)

    def commands() -> int:
        found: Any = world.client.info("commandstats")
        return sum(each["calls"] for name, each in found.items() if name != "cmdstat_info")

    engines = {world.database._reader, world.database._writer}
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", note)
    before = commands()
    world.dispatcher.dispatch()
    after = commands()
    for engine in engines:
        sa.event.remove(engine, "before_cursor_execute", note)
    return len(statements), after - before


def test_a_round_asks_nothing_about_idle_queues(world: DispatchDriver) -> None:
    """Neither about ten thousand that are known, nor about as many with work that no worker takes."""
    names = [f"invented-{number}" for number in range(10_000)]
    with world.database.write() as connection:
        queues.upsert_many(connection, names, world.clock.now())
    assert _count_queries(world) == (2, 0)
    with world.database.write() as connection:
        insert_executions(connection, *(make_execution(queue=name) for name in names))
    assert _count_queries(world) == (2, 0)


def test_paused_queues_without_messages_cost_a_round_nothing(world: DispatchDriver) -> None:
    names = [f"stopped-{number:04}" for number in range(1000)]
    with world.database.write() as connection:
        queues.upsert_many(connection, names, world.clock.now())
        connection.execute(sa.update(schema.queues).values(paused_at=world.clock.now(), paused_by="ann"))
    assert _count_queries(world) == (4, 400), "some of them each second, for messages of which SQL does not know"
    assert _count_queries(world) == (3, 0)
    called = world.submit(queue=names[150])
    world.dispatcher.publisher.publish([_make_message(world, called, names[150])])
    assert _count_queries(world)[1] == 0
    world.clock.advance(1)
    world.dispatch()
    assert world.client.exists(names[150]) == 0


def _make_message(world: DispatchDriver, execution: str, queue: str) -> Message:
    with world.database.read() as connection:
        rows = dispatch.get_many(connection, [execution])
        [message] = world.dispatcher._build_messages(connection, [DispatchCandidate(each, 5) for each in rows]).values()
    assert message.queue == queue
    return message


def test_a_round_asks_about_the_queues_that_are_ready_or_paused(world: DispatchDriver) -> None:
    consumed = ("critical", "default", "background")
    world.dispatcher.workers = [replace(each, queues=consumed) for each in world.dispatcher.workers]
    world.submit()
    set_paused(world)
    world.dispatcher.publisher.get_depths = Mock(wraps=world.dispatcher.publisher.get_depths)  # type: ignore[method-assign]
    world.dispatch()
    set_paused(world, paused=False)
    world.dispatch()
    world.submit(queue="critical")
    world.dispatch()
    assert [call.args[0] for call in world.dispatcher.publisher.get_depths.call_args_list] == [
        ["default"],
        ["default"],
        ["critical"],
    ]


def test_what_waits_in_a_queue_that_was_removed_goes_out(world: DispatchDriver) -> None:
    execution = world.submit()
    with world.database.read() as connection:
        assert queues.list_names(connection, 10) == []
    assert world.dispatch() == [execution]
