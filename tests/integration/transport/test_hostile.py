"""Redis holds what nobody expects there: nothing is lost for it, and nobody stops."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
import redis

from jobworker.transport import keys
from jobworker.transport.publisher import list_name
from jobworker.transport.registry import Registry
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
    messages = [yard.message() for _ in range(20)]
    for message in messages[::3]:
        _spoil(yard, message.execution, how)
    executions = yard.publish_all(messages)
    yard.worker()
    yard.all_done_of(executions)


def test_a_list_that_is_none_is_passed_over(yard: Yard) -> None:
    """One of several lists of a queue, and the only one of another."""
    worker = yard.worker()
    for name in (list_name("critical", 9), list_name("background", 5)):
        yard.client.set(name, "no list")
    yard.all_done_of([*yard.publish(count=30), *yard.publish(queue="critical", count=3)])
    asked = _calls(yard)
    yard.all_done_of(yard.publish())
    assert _calls(yard) - asked < 50, "it does not ask over and over for what it cannot get"
    worker.must_live()


def test_what_a_dead_worker_held_comes_back_whatever_has_become_of_its_record_and_list(yard: Yard) -> None:
    victim = yard.worker("--pool", "threads", "-c", "1")
    [blocking] = yard.publish("hold", seconds=600)
    until(lambda: yard.engine.is_running(blocking))
    victim.send(signal.SIGSTOP)
    # As if it had fetched these, too, and started none.
    inflight = keys.INFLIGHT.format(worker=yard.id_of(victim))
    spoilt, homeless = yard.message(), yard.message(queue="elsewhere")
    for tag, message in ((900, spoilt), (901, homeless)):
        yard.publish_all([message])
        name = list_name(message.queue, 5)
        yard.client.hset(inflight, str(tag), f"{len(name)}:{name}{yard.client.rpop(name)!s}")
        yard.client.set(keys.RUN.format(execution=message.execution), f"1 running {yard.id_of(victim)} {tag}")
    yard.client.set(list_name("elsewhere", 5), "no list")
    yard.worker()
    until(lambda: yard.client.llen(keys.POISON) == 1, what="the homeless one to be put aside")
    yard.all_done_of([spoilt.execution])
    assert homeless.execution in str(yard.client.lindex(keys.POISON, 0))


_TYPES: dict[str, Callable[[redis.Redis, str], object]] = {
    "string": lambda client, key: client.set(key, "garbage"),
    "list": lambda client, key: client.lpush(key, "garbage"),
    "hash": lambda client, key: client.hset(
        key, mapping={"seen": "x", "from": "x", "?": "x", "#": "x", "!": "x", "9": "x"}
    ),
    "zset": lambda client, key: client.zadd(key, {"garbage": 1}),
    "stream": lambda client, key: client.xadd(key, {"garbage": "x"}),
}


def test_whatever_stands_under_the_keys_of_workers_they_go_on(yard: Yard) -> None:
    """Every type in the place of every key that a worker reads or writes, but for those that the relay sets right."""
    worker = yard.worker()
    name = yard.id_of(worker)
    patterns = (keys.RUNNING, keys.ORDERS, keys.INFLIGHT, keys.READY, keys.WATCH, keys.POISON, keys.LOSSES, keys.WORKER)
    for pattern in patterns:
        key = pattern.format(worker=name, queue="default", message="m")
        for kind, write in _TYPES.items():
            yard.client.delete(key)
            write(yard.client, key)
            messages = [yard.message() for _ in range(2)]
            executions = yard.publish_all(messages)
            until(
                lambda executions=executions: (
                    set(executions) <= {about for what, about, _ in yard.told() if what == "succeeded"}
                ),  # type: ignore[misc]
                what=f"jobs to run with a {kind} under {key}",
            )
    worker.must_live()


def test_a_dead_worker_is_reported_when_the_stream_takes_events_again(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        registry = Registry(client, LEASE)
        client.zadd(keys.WORKERS, {"dead": 1})
        client.hset(keys.INFLIGHT.format(worker="dead"), mapping={"1": _PACKED, "!": "1"})
        client.set(keys.RUN.format(execution="e"), "1 running dead 1")
        client.set(keys.EVENTS, "something else")
        with pytest.raises(redis.ResponseError):
            registry.reap("dead")
        client.delete(keys.EVENTS)
        assert registry.reap("dead")
        entries: Any = client.xrange(keys.EVENTS)
        assert [fields["kind"] for _, fields in entries] == ["worker_lost", "lost"]
        assert client.exists(keys.FENCE.format(worker="dead"))


#: An attempt in the hash of what a worker has in flight.
_PACKED = '1:q{"headers":{"jobworker":{"execution":"e","attempt":1,"job":"j"}}}'


def _calls(yard: Yard) -> int:
    """How many scripts Redis has run."""
    return int(yard.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))
