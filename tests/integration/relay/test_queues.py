"""Queues: urgent executions bypass a full feed, overtaken ones get a share, paused queues start nothing."""

import json
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from jobworker.domain.executions.events import EventKind
from jobworker.relay.selection import DispatchCandidate
from jobworker.store import queues
from jobworker.store.executions import dispatch
from jobworker.store.queues import QueueRow
from jobworker.store.tables import core
from jobworker.transport.publisher import Message
from tests.conformance.factories import insert_executions, make_execution
from tests.integration.relay.conftest import SEND, DispatchDriver
from tests.integration.relay.test_limits import make_limited_job

pytestmark = pytest.mark.every_redis


def set_paused(driver: DispatchDriver, paused: bool = True) -> None:
    with driver.database.write() as connection:
        queues.upsert_many(connection, ["default"], driver.clock.now())
        queues.update_pause(
            connection, QueueRow("default", driver.clock.now(), "ann") if paused else QueueRow("default")
        )


def run_messages(driver: DispatchDriver, *executions: str) -> None:
    """Remove these messages and record the reports of their runs, as workers do."""
    for execution in executions:
        driver.record_report(EventKind.RUNNING, execution)
        driver.record_report(EventKind.SUCCEEDED, execution)


def test_feed_limit_does_not_hold_back_more_urgent_executions(driver: DispatchDriver) -> None:
    driver.dispatcher = driver.create_dispatcher(feed=3)
    usual = driver.submit_many(SEND, 5)
    assert driver.dispatch() == usual[:3]
    assert driver.dispatch() == []
    slow = driver.submit(priority=1)
    urgent = driver.submit_many(SEND, 5, priority=9)
    assert driver.dispatch() == urgent[:3]
    assert driver.list_queued(9) == urgent[:3]
    assert driver.get_execution(slow).dispatched_at is None


def test_messages_are_published_to_the_list_of_their_priority(driver: DispatchDriver) -> None:
    executions = [driver.submit(priority=priority) for priority in range(10)]
    assert driver.dispatch() == executions
    assert [driver.list_queued(priority) for priority in (9, 5, 2, 0)] == [
        executions[:6:-1],
        executions[6:3:-1],
        executions[3:0:-1],
        executions[:1],
    ]


def test_one_in_ten_messages_is_an_overtaken_one_under_load(driver: DispatchDriver) -> None:
    driver.dispatcher = driver.create_dispatcher(feed=20)
    old = driver.submit_many(SEND, 3, priority=0)
    driver.dispatcher.feed = 20
    urgent = driver.submit_many(SEND, 100, priority=9)
    assert driver.dispatch() == urgent[:20], "nobody was overtaken for long yet"
    driver.clock.advance(61)
    driver.client.delete("default")
    assert driver.dispatch() == [*old[:2], *urgent[20:40]]
    assert driver.list_queued(9)[-2:] == old[:2], "in the list of those that overtook them"
    assert len(driver.list_queued(9)) == 22
    assert driver.dispatch() == [], "more than the feed is there already"


def test_aged_execution_keeps_its_priority_without_load(driver: DispatchDriver) -> None:
    old = driver.submit_many(SEND, 15, priority=0)
    driver.clock.advance(1000)
    urgent = driver.submit(priority=9)
    assert driver.dispatch() == [*old, urgent]
    assert (driver.list_queued(9), driver.list_queued(0)) == ([urgent], old)


def test_aged_message_is_withdrawn_and_published_with_top_priority(driver: DispatchDriver) -> None:
    driver.dispatcher = driver.create_dispatcher(feed=20)
    old = driver.submit_many(SEND, 2, priority=0)
    assert driver.dispatch() == old
    driver.clock.advance(61)
    driver.dispatcher.withdraw_aged_messages()
    assert driver.list_queued(0) == old, "nothing overtakes them"
    driver.submit_many(SEND, 100, priority=9)
    assert len(driver.dispatch()) == 20
    driver.dispatcher.withdraw_aged_messages()
    assert (driver.list_queued(0), driver.list_published() & set(old)) == ([], set())
    driver.client.delete("default")
    assert set(old) <= set(driver.dispatch())
    assert driver.list_queued(9)[-2:] == old


def test_aged_message_is_not_lost_when_another_list_is_empty(driver: DispatchDriver) -> None:
    driver.dispatcher = driver.create_dispatcher(feed=10)
    [old] = driver.submit_many(SEND, 1, priority=0)
    driver.clock.advance(61)
    driver.submit_many(SEND, 30, priority=9)
    went = driver.dispatch()
    assert old in went
    assert old in driver.list_queued(9)
    driver.clock.advance(20)
    assert driver.dispatcher.republish_lost_messages(driver.clock.now()) == 0


def test_paused_queue_publishes_nothing_and_withdraws_its_messages(driver: DispatchDriver) -> None:
    executions = driver.submit_many(SEND, 3)
    foreign = json.dumps({"headers": {"task": "plain"}, "body": ""})
    driver.dispatch()
    driver.client.rpush("default\x06\x163", foreign)
    driver.client.lpush("default\x06\x163", foreign)
    set_paused(driver)
    assert driver.dispatch() == []
    assert driver.list_published() == set()
    assert driver.pop_messages() == [foreign, foreign], "what others have sent stays"
    driver.clock.advance(1)
    more = driver.submit()
    assert driver.dispatch() == []
    set_paused(driver, paused=False)
    assert driver.dispatch() == [*executions, more]
    assert driver.list_queued() == [*executions, more]


def test_foreign_messages_in_a_paused_queue_do_not_affect_the_next_pause(driver: DispatchDriver) -> None:
    driver.submit()
    driver.client.lpush("default", *[json.dumps({"headers": {}})] * 3)
    set_paused(driver)
    driver.dispatch()
    set_paused(driver, paused=False)
    driver.client.delete("default")
    driver.submit_many(SEND, 2)
    assert len(driver.dispatch()) == 3
    driver.clock.advance(1)
    set_paused(driver)
    driver.dispatch()
    assert driver.list_published() == set()


def test_fetched_message_is_not_withdrawn(driver: DispatchDriver) -> None:
    execution = driver.submit()
    driver.dispatch()
    driver.mark_fetched(execution)
    driver.pop_messages()
    set_paused(driver)
    driver.dispatch()
    assert driver.list_published() == {execution}


def test_copy_of_a_fetched_message_is_dropped_and_keeps_its_slot(driver: DispatchDriver) -> None:
    definition = make_limited_job(concurrency={"limit": 1})
    first, _ = driver.submit_many(definition, 2)
    assert driver.dispatch() == [first]
    driver.mark_fetched(first)
    set_paused(driver)
    driver.dispatch()
    assert (driver.list_queued(), driver.list_published()) == ([], {first})
    set_paused(driver, paused=False)
    assert driver.dispatch() == []


def test_withdraw_leaves_keys_that_are_not_lists_unchanged(driver: DispatchDriver) -> None:
    driver.submit()
    driver.dispatch()
    driver.client.set("default", "something else")
    assert driver.dispatcher.claims.withdraw(["default", "nothing"]) == []
    assert driver.client.get("default") == "something else"


def _count_queries(driver: DispatchDriver) -> tuple[int, int]:
    """Return the numbers of SQL statements and Redis commands of one round."""
    statements: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            statements.append(statement)

    def commands() -> int:
        statistics: Any = driver.client.info("commandstats")
        return sum(command["calls"] for name, command in statistics.items() if name != "cmdstat_info")

    engines = {driver.database._reader, driver.database._writer}
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", note)
    before = commands()
    driver.dispatcher.dispatch()
    after = commands()
    for engine in engines:
        sa.event.remove(engine, "before_cursor_execute", note)
    return len(statements), after - before


def test_dispatch_round_runs_no_query_for_idle_queues(driver: DispatchDriver) -> None:
    """Idle queues are ten thousand known ones, and as many with executions that no worker runs."""
    names = [f"invented-{number}" for number in range(10_000)]
    with driver.database.write() as connection:
        queues.upsert_many(connection, names, driver.clock.now())
    assert _count_queries(driver) == (2, 0)
    with driver.database.write() as connection:
        insert_executions(connection, *(make_execution(queue=name) for name in names))
    assert _count_queries(driver) == (2, 0)


def test_paused_queues_without_messages_need_no_redis_command(driver: DispatchDriver) -> None:
    names = [f"stopped-{number:04}" for number in range(1000)]
    with driver.database.write() as connection:
        queues.upsert_many(connection, names, driver.clock.now())
        connection.execute(sa.update(core.queues).values(paused_at=driver.clock.now(), paused_by="ann"))
    assert _count_queries(driver) == (4, 400), "some of them each second, for messages of which SQL does not know"
    assert _count_queries(driver) == (3, 0)
    called = driver.submit(queue=names[150])
    driver.dispatcher.publisher.publish([_make_message(driver, called, names[150])])
    assert _count_queries(driver)[1] == 0
    driver.clock.advance(1)
    driver.dispatch()
    assert driver.client.exists(names[150]) == 0


def _make_message(driver: DispatchDriver, execution: str, queue: str) -> Message:
    with driver.database.read() as connection:
        rows = dispatch.get_many(connection, [execution])
        [message] = driver.dispatcher._build_messages(connection, [DispatchCandidate(row, 5) for row in rows]).values()
    assert message.queue == queue
    return message


def test_dispatch_round_reads_depths_of_ready_and_paused_queues_only(driver: DispatchDriver) -> None:
    consumed = ("critical", "default", "background")
    driver.dispatcher.workers = [replace(worker, queues=consumed) for worker in driver.dispatcher.workers]
    driver.submit()
    set_paused(driver)
    driver.dispatcher.publisher.get_depths = Mock(wraps=driver.dispatcher.publisher.get_depths)  # type: ignore[method-assign]
    driver.dispatch()
    set_paused(driver, paused=False)
    driver.dispatch()
    driver.submit(queue="critical")
    driver.dispatch()
    assert [call.args[0] for call in driver.dispatcher.publisher.get_depths.call_args_list] == [
        ["default"],
        ["default"],
        ["critical"],
    ]


def test_execution_in_a_removed_queue_is_published(driver: DispatchDriver) -> None:
    execution = driver.submit()
    with driver.database.read() as connection:
        assert queues.list_names(connection, 10) == []
    assert driver.dispatch() == [execution]
