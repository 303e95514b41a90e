"""Queues of direct calls, and foreign names among them."""

import datetime as dt

import pytest
import redis

from jobworker.clock import ManualClock
from jobworker.transport import keys
from jobworker.transport.client import connect_redis
from jobworker.transport.direct_call_queues import DirectCallQueues

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return connect_redis(redis_url)


def test_messages_in_queues_without_worker_are_counted(client: redis.Redis, clock: ManualClock) -> None:
    noted = DirectCallQueues(client, clock)
    for queue in ("served", "forgotten", "empty"):
        noted.record(queue)
    client.rpush("served", "a")
    client.rpush("forgotten", "a", "b")
    assert noted.count_waiting({"served"}) == {"forgotten": 2}

    clock.advance(2 * HOUR.total_seconds())
    noted.count_waiting({"served"})
    assert set(client.zrange(keys.CALLED_QUEUES, 0, -1)) == {"served", "forgotten"}


def test_foreign_queue_names_are_bounded_and_skipped(client: redis.Redis, clock: ManualClock) -> None:
    now = clock.now().timestamp()
    forged = [b"\xff\xfe", b"x" * 100_000, b"", *(b"q%d" % number for number in range(1500))]
    for name in forged:
        client.zadd(keys.CALLED_QUEUES, {name: now - 1})
    client.rpush(b"\xff\xfe", "a")
    client.rpush("x" * 100_000, "a")
    noted = DirectCallQueues(client, clock)
    noted.record("mine")
    client.rpush("mine", "a")

    waiting = noted.count_waiting(())

    assert waiting["mine"] == 1
    assert client.zcard(keys.CALLED_QUEUES) <= 1000
    assert all(len(queue) <= 255 for queue in waiting)
