"""Redis holds what nobody expects there: nothing is lost for it, and nobody stops."""

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from jobworker.transport import keys
from jobworker.transport.client import connect
from jobworker.transport.orders import Order, Orders
from jobworker.transport.publisher import list_name
from jobworker.transport.registry import Announcement, Pulse, Registry, Unreadable
from tests.conftest import NOW
from tests.engine import LEASE
from tests.integration.transport.yard import Yard
from tests.waiting import until

pytestmark = pytest.mark.every_redis


def _spoil(yard: Yard, execution: str, how: str) -> None:
    """Put something else where the record of the execution belongs."""
    name = keys.RUN.format(execution=execution)
    if how == "a hash":
        yard.client.hset(name, "attempt", "1")
    else:
        yard.client.set(name, how)


@pytest.mark.parametrize("how", ["a hash", "nonsense", "", "1 running", "1 paused w 1"])
def test_records_that_are_none_keep_nobody_from_running(yard: Yard, how: str) -> None:
    messages = [yard.make_message() for _ in range(20)]
    for message in messages[::3]:
        _spoil(yard, message.execution, how)
    executions = yard.publish_messages(messages)
    yard.start_worker()
    yard.expect_done(executions)


def test_a_message_with_a_forged_id_runs_nothing_and_stops_nobody(yard: Yard) -> None:
    worker = yard.start_worker()
    forged = replace(yard.make_message("saves_file"), execution="../../../forged")
    yard.publish_messages([forged])
    yard.expect_done(yard.publish())
    until(lambda: "rejected" in yard.list_event_kinds(forged.execution), what="the forged message to be rejected")
    worker.check_alive()
    assert not list(yard.engine.folder.rglob("forged"))


def test_a_list_that_is_none_is_passed_over(yard: Yard) -> None:
    """One of several lists of a queue, and the only one of another."""
    worker = yard.start_worker()
    for name in (list_name("critical", 9), list_name("background", 5)):
        yard.client.set(name, "no list")
    yard.expect_done([*yard.publish(count=30), *yard.publish(queue="critical", count=3)])
    asked = _calls(yard)
    yard.expect_done(yard.publish())
    assert _calls(yard) - asked < 50, "it does not ask over and over for what it cannot get"
    worker.check_alive()


def test_what_a_dead_worker_held_comes_back_whatever_has_become_of_its_record_and_list(yard: Yard) -> None:
    victim = yard.start_worker("--pool", "threads", "-c", "1")
    [blocking] = yard.publish("hold", seconds=600)
    until(lambda: yard.engine.is_running(blocking))
    victim.send_signal(signal.SIGSTOP)
    # As if it had fetched these, too, and started none.
    inflight = keys.INFLIGHT.format(worker=yard.get_worker_id(victim))
    spoilt, homeless = yard.make_message(), yard.make_message(queue="elsewhere")
    for tag, message in ((900, spoilt), (901, homeless)):
        yard.publish_messages([message])
        name = list_name(message.queue, 5)
        yard.client.hset(inflight, str(tag), f"{len(name)}:{name}{yard.client.rpop(name)!s}")
        yard.client.set(keys.RUN.format(execution=message.execution), f"1 running {yard.get_worker_id(victim)} {tag}")
    yard.client.set(list_name("elsewhere", 5), "no list")
    yard.start_worker()
    until(lambda: yard.client.llen(keys.POISON) == 1, what="the homeless one to be put aside")
    yard.expect_done([spoilt.execution])
    assert homeless.execution in str(yard.client.lindex(keys.POISON, 0))


#: Bytes that are no UTF-8.
_BYTES = b"\xff\xfe\xc3("

_TYPES: dict[str, Callable[[redis.Redis, str], object]] = {
    "string": lambda client, key: client.set(key, "garbage"),
    "string of bytes": lambda client, key: client.set(key, _BYTES),
    "list": lambda client, key: client.lpush(key, "garbage", _BYTES),
    "hash": lambda client, key: client.hset(
        key,
        mapping={"seen": "x", "from": "x", "?": "x", "#": _BYTES, "!": "x", "9": "x", "8": _BYTES, _BYTES: _BYTES},
    ),
    "zset": lambda client, key: client.zadd(key, {_BYTES: 1}),
    "stream": lambda client, key: client.xadd(key, {"garbage": "x", _BYTES: _BYTES}),
}


def test_whatever_stands_under_the_keys_of_workers_they_go_on(yard: Yard) -> None:
    """Every type in the place of every key that a worker reads or writes, but for those that the relay sets right."""
    worker = yard.start_worker()
    name = yard.get_worker_id(worker)
    patterns = (keys.RUNNING, keys.ORDERS, keys.INFLIGHT, keys.READY, keys.WATCH, keys.POISON, keys.LOSSES, keys.WORKER)
    for pattern in patterns:
        key = pattern.format(worker=name, queue="default", message="m")
        for kind, write in _TYPES.items():
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
    with connect(redis_url) as client:
        key = keys.ORDERS.format(worker="w")
        odd: Any = ["garbage", "[1]", "[1e400, 1]", "[" * 50_000, _BYTES, b'[1, "%b"]' % _BYTES]
        for number, text in enumerate(odd):
            client.hset(key, f"e{number}", text)
        client.hset(key, _BYTES, _BYTES)
        client.hset(key, "e", '[1, "ann"]')
        orders = Orders(client).list_for_worker("w")
        assert len(orders) == len(odd) + 2
        assert [order for order in orders if order.attempt] == [Order("e", 1, "ann")]


_HERE = Announcement("w", "h", 1, "solo", 1, ("default",), ("noop",), "d", "v", NOW)


@pytest.mark.parametrize("kind", _TYPES)
def test_a_worker_announces_itself_again_whatever_has_taken_the_place_of_its_announcement(
    redis_url: str, kind: str
) -> None:
    unreadable: list[Unreadable] = []
    with connect(redis_url) as client:
        registry = Registry(client, LEASE)
        assert registry.send_heartbeat(_HERE, []).status is Pulse.UNKNOWN
        registry.announce(_HERE, [])
        assert registry.send_heartbeat(_HERE, []).status is Pulse.KNOWN
        key = keys.WORKER.format(worker="w")
        client.delete(key)
        _TYPES[kind](client, key)
        assert registry.send_heartbeat(_HERE, []).status is Pulse.UNKNOWN
        registry.announce(_HERE, [])
        assert registry.send_heartbeat(_HERE, []).status is Pulse.KNOWN
        assert registry.list_announcements(unreadable.append) == [_HERE]
    assert not unreadable


def test_a_worker_is_known_again_after_its_announcement_was_overwritten(yard: Yard) -> None:
    name = yard.get_worker_id(yard.start_worker())
    key = keys.WORKER.format(worker=name)
    announced = until(lambda: yard.client.get(key))
    yard.client.set(key, "garbage")
    until(lambda: yard.client.get(key) == announced, LEASE * 2, what="the worker to announce itself again")


def test_a_dead_worker_is_reported_when_the_stream_takes_events_again(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        registry = Registry(client, LEASE)
        client.zadd(keys.WORKERS, {"dead": 1})
        client.hset(keys.INFLIGHT.format(worker="dead"), mapping={"1": _PACKED, "!": "1"})
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
_PACKED = '1:q{"headers":{"jobworker":{"execution":"e","attempt":1,"job":"j"}}}'


def _calls(yard: Yard) -> int:
    """How many scripts Redis has run."""
    return int(yard.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))
