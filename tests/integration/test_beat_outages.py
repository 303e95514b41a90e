"""Scheduler whose Redis fails, restarts or is full."""

import datetime as dt
from collections.abc import Callable

import pytest

from jobworker.transport import keys
from jobworker.transport.beat import Scheduler
from tests.integration.test_beat import HOURLY, MINUTE, BeatSchedule, make_scheduler
from tests.servers import RedisServer

pytestmark = pytest.mark.every_redis


def test_tick_is_repeated_after_other_redis_errors(beat: Scheduler, schedule: BeatSchedule) -> None:
    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
    schedule.client.set(keys.EVENTS, "something")
    assert 0 < beat.tick() < 1
    assert schedule.get_next_time("s1") == schedule.now - MINUTE


def test_restarted_redis_is_awaited(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis(persistent=True)
    beat = make_scheduler(server.url)
    with server.create_client() as client:
        schedule = BeatSchedule(client)
        schedule.add_entry("s1", HOURLY, schedule.now + dt.timedelta(hours=1))
    beat.tick()

    server.stop()
    pauses = [beat.tick() for _ in range(8)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert pauses[-1] <= 5
    server.start()
    with server.create_client() as client:
        schedule = BeatSchedule(client)
        schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
        beat.tick()
        assert schedule.list_reported() == [("s1", schedule.now - MINUTE)]


def test_dropped_connections_are_reopened(beat: Scheduler, schedule: BeatSchedule) -> None:
    beat.tick()
    schedule.client.client_kill_filter(_type="normal", skipme=True)
    schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
    beat.tick()
    assert len(schedule.list_reported()) == 1


def test_full_redis_loses_no_occurrence(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis()
    beat = make_scheduler(server.url)
    with server.create_client() as client:
        schedule = BeatSchedule(client)
        schedule.add_entry("s1", HOURLY, schedule.now - MINUTE)
        beat.tick()
        schedule.add_entry("s2", HOURLY, schedule.now - MINUTE)
        client.config_set("maxmemory", 1)
        beat.tick()
        client.config_set("maxmemory", 0)
        assert schedule.get_next_time("s2") == schedule.now - MINUTE
        beat.tick()
        assert [name for name, _ in schedule.list_reported()] == ["s1", "s2"]
