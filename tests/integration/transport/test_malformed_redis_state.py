"""Malformed content of Redis: no message is lost, and no worker stops."""

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from jobworker.transport import keys
from jobworker.transport.client import connect_redis
from jobworker.transport.publisher import get_list_name
from jobworker.transport.stop_requests import StopRequest, StopRequests
from jobworker.transport.worker_registry import HeartbeatStatus, UnreadableKey, WorkerAnnouncement, WorkerRegistry
from tests.conftest import NOW
from tests.engine import LEASE_SECONDS
from tests.integration.transport.transport_driver import TransportDriver
from tests.polling import wait_until

pytestmark = pytest.mark.every_redis


def _replace_record(driver: TransportDriver, execution: str, how: str) -> None:
    """Replace the run record of an execution by a malformed one."""
    name = keys.RUN.format(execution=execution)
    if how == "a hash":
        driver.client.hset(name, "attempt", "1")
    else:
        driver.client.set(name, how)


@pytest.mark.parametrize("how", ["a hash", "nonsense", "", "1 running", "1 paused w 1"])
def test_malformed_run_records_do_not_block_executions(driver: TransportDriver, how: str) -> None:
    messages = [driver.make_message() for _ in range(20)]
    for message in messages[::3]:
        _replace_record(driver, message.execution, how)
    executions = driver.publish_messages(messages)
    driver.start_worker()
    driver.expect_done(executions)


def test_message_with_forged_id_is_rejected(driver: TransportDriver) -> None:
    worker = driver.start_worker()
    forged = replace(driver.make_message("save_file"), execution="../../../forged")
    driver.publish_messages([forged])
    driver.expect_done(driver.publish())
    wait_until(
        lambda: "rejected" in driver.list_event_kinds(forged.execution), what="the forged message to be rejected"
    )
    worker.check_alive()
    assert not list(driver.engine.folder.rglob("forged"))


def test_queue_key_that_is_not_a_list_is_skipped(driver: TransportDriver) -> None:
    """The first malformed key is one of several lists of its queue, the second the only list of its queue."""
    worker = driver.start_worker()
    for name in (get_list_name("critical", 9), get_list_name("background", 5)):
        driver.client.set(name, "no list")
    driver.expect_done([*driver.publish(count=30), *driver.publish(queue="critical", count=3)])
    calls_before = _count_script_calls(driver)
    driver.expect_done(driver.publish())
    assert _count_script_calls(driver) - calls_before < 50, "it does not ask over and over for what it cannot get"
    worker.check_alive()


def test_messages_of_a_dead_worker_return_despite_malformed_records(driver: TransportDriver) -> None:
    victim = driver.start_worker("--pool", "threads", "-c", "1")
    [blocking] = driver.publish("hold", seconds=600)
    wait_until(lambda: driver.engine.is_running(blocking))
    victim.send_signal(signal.SIGSTOP)
    # State of a worker that had fetched these messages, too, and started none.
    inflight = keys.INFLIGHT.format(worker=driver.get_worker_id(victim))
    spoilt, homeless = driver.make_message(), driver.make_message(queue="elsewhere")
    for tag, message in ((900, spoilt), (901, homeless)):
        driver.publish_messages([message])
        name = get_list_name(message.queue, 5)
        driver.client.hset(inflight, str(tag), f"{len(name)}:{name}{driver.client.rpop(name)!s}")
        driver.client.set(
            keys.RUN.format(execution=message.execution), f"1 running {driver.get_worker_id(victim)} {tag}"
        )
    driver.client.set(get_list_name("elsewhere", 5), "no list")
    driver.start_worker()
    wait_until(lambda: driver.client.llen(keys.POISON) == 1, what="the homeless one to be put aside")
    driver.expect_done([spoilt.execution])
    assert homeless.execution in str(driver.client.lindex(keys.POISON, 0))


#: Bytes that are not UTF-8.
_INVALID_UTF8 = b"\xff\xfe\xc3("

_VALUE_WRITERS: dict[str, Callable[[redis.Redis, str], object]] = {
    "string": lambda client, key: client.set(key, "garbage"),
    "string of bytes": lambda client, key: client.set(key, _INVALID_UTF8),
    "list": lambda client, key: client.lpush(key, "garbage", _INVALID_UTF8),
    "hash": lambda client, key: client.hset(
        key,
        mapping={
            "seen": "x",
            "from": "x",
            "?": "x",
            "#": _INVALID_UTF8,
            "!": "x",
            "9": "x",
            "8": _INVALID_UTF8,
            _INVALID_UTF8: _INVALID_UTF8,
        },
    ),
    "zset": lambda client, key: client.zadd(key, {_INVALID_UTF8: 1}),
    "stream": lambda client, key: client.xadd(key, {"garbage": "x", _INVALID_UTF8: _INVALID_UTF8}),
}


def test_foreign_types_under_worker_keys_do_not_stop_a_worker(driver: TransportDriver) -> None:
    """Values of each type are written to each key that a worker uses, except for keys that the relay restores."""
    worker = driver.start_worker()
    name = driver.get_worker_id(worker)
    patterns = (keys.RUNNING, keys.ORDERS, keys.INFLIGHT, keys.READY, keys.WATCH, keys.POISON, keys.LOSSES, keys.WORKER)
    for pattern in patterns:
        key = pattern.format(worker=name, queue="default", message="m")
        for kind, write in _VALUE_WRITERS.items():
            driver.client.delete(key)
            write(driver.client, key)
            messages = [driver.make_message() for _ in range(2)]
            executions = driver.publish_messages(messages)
            wait_until(
                lambda executions=executions: (
                    set(executions)
                    <= {execution for event_kind, execution, _ in driver.list_events() if event_kind == "succeeded"}
                ),  # type: ignore[misc]
                what=f"jobs to run with a {kind} under {key}",
            )
    worker.check_alive()
    assert "UnicodeDecodeError" not in driver.engine.read_log(worker)


def test_malformed_stop_requests_match_no_attempt(redis_url: str) -> None:
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
def test_worker_announces_itself_again_after_its_key_was_replaced(redis_url: str, kind: str) -> None:
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


def test_overwritten_announcement_is_restored(driver: TransportDriver) -> None:
    name = driver.get_worker_id(driver.start_worker())
    key = keys.WORKER.format(worker=name)
    announced = wait_until(lambda: driver.client.get(key))
    driver.client.set(key, "garbage")
    wait_until(
        lambda: driver.client.get(key) == announced, LEASE_SECONDS * 2, what="the worker to announce itself again"
    )


def test_dead_worker_is_reported_when_the_stream_accepts_events_again(redis_url: str) -> None:
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


#: An attempt in the hash of a worker's messages in flight.
_PACKED_MESSAGE = '1:q{"headers":{"jobworker":{"execution":"e","attempt":1,"job":"j"}}}'


def _count_script_calls(driver: TransportDriver) -> int:
    """Return the number of scripts that Redis has run."""
    return int(driver.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))
