"""Redis holds what nobody expects there: nothing is lost for it, and nobody stops."""

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from jobworker.transport import keys
from jobworker.transport.client import connect_redis
from jobworker.transport.orders import StopRequest, StopRequests
from jobworker.transport.publisher import get_list_name
from jobworker.transport.registry import WorkerAnnouncement, HeartbeatStatus, WorkerRegistry, UnreadableKey
from tests.conftest import NOW
from tests.engine import LEASE_SECONDS
from tests.integration.transport.yard import TransportDriver
from tests.waiting import until

pytestmark = pytest.mark.every_redis


def _replace_record(yard: TransportDriver, execution: str, how: str) -> None:
    """Put something else where the record of the execution belongs."""
    name = keys.RUN.format(execution=execution)
    if how == "a hash":
        yard.client.hset(name, "attempt", "1")
    else:
        yard.client.set(name, how)


@pytest.mark.parametrize("how", ["a hash", "nonsense", "", "1 running", "1 paused w 1"])
def test_records_that_are_none_keep_nobody_from_running(yard: TransportDriver, how: str) -> None:
    messages = [yard.make_message() for _ in range(20)]
    for message in messages[::3]:
        _replace_record(yard, message.execution, how)
    executions = yard.publish_messages(messages)
    yard.start_worker()
    yard.expect_done(executions)


def test_a_message_with_a_forged_id_runs_nothing_and_stops_nobody(yard: TransportDriver) -> None:
    worker = yard.start_worker()
    forged = replace(yard.make_message("saves_file"), execution="../../../forged")
    yard.publish_messages([forged])
    yard.expect_done(yard.publish())
    until(lambda: "rejected" in yard.list_event_kinds(forged.execution), what="the forged message to be rejected")
    worker.check_alive()
    assert not list(yard.engine.folder.rglob("forged"))


def test_a_list_that_is_none_is_passed_over(yard: TransportDriver) -> None:
    """One of several lists of a queue, and the only one of another."""
    worker = yard.start_worker()
    for name in (get_list_name("critical", 9), get_list_name("background", 5)):
        yard.client.set(name, "no list")
    yard.expect_done([*yard.publish(count=30), *yard.publish(queue="critical", count=3)])
    asked = _count_script_calls(yard)
    yard.expect_done(yard.publish())
    assert _count_script_calls(yard) - asked < 50, "it does not ask over and over for what it cannot get"
    worker.check_alive()


def test_what_a_dead_worker_held_comes_back_whatever_has_become_of_its_record_and_list(yard: TransportDriver) -> None:
    victim = yard.start_worker("--pool", "threads", "-c", "1")
    [blocking] = yard.publish("hold", seconds=600)
    until(lambda: yard.engine.is_running(blocking))
    victim.send_signal(signal.SIGSTOP)
    # As if it had fetched these, too, and started none.
    inflight = keys.INFLIGHT.format(worker=yard.get_worker_id(victim))
    spoilt, homeless = yard.make_message(), yard.make_message(queue="elsewhere")
    for tag, message in ((900, spoilt), (901, homeless)):
        yard.publish_messages([message])
        name = get_list_name(message.queue, 5)
        yard.client.hset(inflight, str(tag), f"{len(name)}:{name}{yard.client.rpop(name)!s}")
        yard.client.set(keys.RUN.format(execution=message.execution), f"1 running {yard.get_worker_id(victim)} {tag}")
    yard.client.set(get_list_name("elsewhere", 5), "no list")
    yard.start_worker()
    until(lambda: yard.client.llen(keys.POISON) == 1, what="the homeless one to be put aside")
    yard.expect_done([spoilt.execution])
    assert homeless.execution in str(yard.client.lindex(keys.POISON, 0))


#: Bytes that are no UTF-8.
_INVALID_UTF8 = b"\xff\xfe\xc3("

_VALUE_WRITERS: dict[str, Callable[[redis.Redis, str], object]] = {
    "string": lambda client, key: client.set(key, "garbage"),
    "string of bytes": lambda client, key: client.set(key, _INVALID_UTF8),
    "list": lambda client, key: client.lpush(key, "garbage", _INVALID_UTF8),
    "hash": lambda client, key: client.hset(
        key,
        mapping={"seen": "x", "from": "x", "?": "x", "#": _INVALID_UTF8, "!": "x", "9": "x", "8": _INVALID_UTF8, _INVALID_UTF8: _INVALID_UTF8},
    ),
    "zset": lambda client, key: client.zadd(key, {_INVALID_UTF8: 1}),
    "stream": lambda client, key: client.xadd(key, {"garbage": "x", _INVALID_UTF8: _INVALID_UTF8}),
}


def test_whatever_stands_under_the_keys_of_workers_they_go_on(yard: TransportDriver) -> None:
    """Every type in the place of every key that a worker reads or writes, but for those that the relay sets right."""
    worker = yard.start_worker()
    name = yard.get_worker_id(worker)
    patterns = (keys.RUNNING, keys.ORDERS, keys.INFLIGHT, keys.READY, keys.WATCH, keys.POISON, keys.LOSSES, keys.WORKER)
    for pattern in patterns:
        key = pattern.format(worker=name, queue="default", message="m")
        for kind, write in _VALUE_WRITERS.items():
            yard.client.delete(key)
            write(yard.client, key)
            messages = [yard.make_message() for _ in range(2)]
            executions = yard.publish_messages(messages)
            until(
                lambda executions=executions: (
                    set(executions) <= {about for what, about, _ in yard.list_events() if what == "succeeded"}
                ),  # type: ignore[misc]
                what=f"jobs to run with a {kind} under {key}",
            )
    worker.check_alive()
    assert "UnicodeDecodeError" not in yard.engine.read_log(worker)


def test_orders_that_are_none_are_about_nothing_that_a_worker_runs(redis_url: str) -> None:
    with connect_redis(redis_url) as client:
        key = keys.ORDERS.format(worker="w")
        odd: Any = ["garbage", "[1]", "[1e400, 1]", "[" * 50_000, _INVALID_UTF8, b'[1, "%b"]' % _INVALID_UTF8]
        for number, text in enumerate(odd):
            client.hset(key, f"e{number}", text)
        client.hset(key, _INVALID_UTF8, _INVALID_UTF8)
        client.hset(key, "e", '[1, "ann"]')
        orders = StopRequests(client).list_for_worker("w")
        assert len(orders) == len(odd) + 2
        assert [order for order in orders if order.attempt] == [StopRequest("e", 1, "ann")]


_ANNOUNCEMENT = WorkerAnnouncement("w", "h", 1, "solo", 1, ("default",), ("noop",), "d", "v", NOW)


@pytest.mark.parametrize("kind", _VALUE_WRITERS)
def test_a_worker_announces_itself_again_whatever_has_taken_the_place_of_its_announcement(
    redis_url: str, kind: str
) -> None:
    unreadable: list[UnreadableKey] = []
    with connect_redis(redis_url) as client:
        registry = WorkerRegistry(client, LEASE_SECONDS)
        assert registry.send_heartbeat(_ANNOUNCEMENT, []).status is HeartbeatStatus.UNKNOWN
        registry.announce(_ANNOUNCEMENT, [])
        assert registry.send_heartbeat(_ANNOUNCEMENT, []).status is HeartbeatStatus.KNOWN
        key = keys.WORKER.format(worker="w")
        client.delete(key)
        _VALUE_WRITERS[kind](client, key)
        assert registry.send_heartbeat(_ANNOUNCEMENT, []).status is HeartbeatStatus.UNKNOWN
        registry.announce(_ANNOUNCEMENT, [])
        assert registry.send_heartbeat(_ANNOUNCEMENT, []).status is HeartbeatStatus.KNOWN
        assert registry.list_announcements(unreadable.append) == [_ANNOUNCEMENT]
    assert not unreadable


def test_a_worker_is_known_again_after_its_announcement_was_overwritten(yard: TransportDriver) -> None:
    name = yard.get_worker_id(yard.start_worker())
    key = keys.WORKER.format(worker=name)
    announced = until(lambda: yard.client.get(key))
    yard.client.set(key, "garbage")
    until(lambda: yard.client.get(key) == announced, LEASE_SECONDS * 2, what="the worker to announce itself again")


def test_a_dead_worker_is_reported_when_the_stream_takes_events_again(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        registry = WorkerRegistry(client, LEASE_SECONDS)
        client.zadd(keys.WORKERS, {"dead": 1})
        client.hset(keys.INFLIGHT.format(worker="dead"), mapping={"1": _PACKED_MESSAGE, "!": "1"})
        client.set(keys.RUN.format(execution="e"), "1 running dead 1")
        client.set(keys.EVENTS, "something else")
        with pytest.raises(redis.ResponseError):
            registry.reap_worker("dead")
        client.delete(keys.EVENTS)
        assert registry.reap_worker("dead")
        entries: Any = client.xrange(keys.EVENTS)
        assert [fields["kind"] for _, fields in entries] == ["worker_lost", "lost"]
        assert client.exists(keys.FENCE.format(worker="dead"))


#: An attempt in the hash of what a worker has in flight.
_PACKED_MESSAGE = '1:q{"headers":{"jobworker":{"execution":"e","attempt":1,"job":"j"}}}'


def _count_script_calls(yard: TransportDriver) -> int:
    """How many scripts Redis has run."""
    return int(yard.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))
