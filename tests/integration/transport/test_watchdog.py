"""Watchdog: a live worker that makes no progress is ended, so that its supervisor starts another."""

from types import SimpleNamespace

import pytest

from jobworker.clock import ManualClock
from jobworker.transport.client import connect_redis
from jobworker.transport.publisher import get_list_names
from jobworker.worker.watchdog import Watchdog
from tests.integration.transport.transport_driver import TransportDriver
from tests.polling import wait_until
from tests.servers import ServerProcess

#: Lease (s), short enough that a worker's grace of four leases passes within the test.
_LEASE_SECONDS = "1"


def _expect_end(driver: TransportDriver, worker: ServerProcess, says: str) -> None:
    wait_until(lambda: not worker.is_alive(), what="the worker to be ended")
    assert says in driver.engine.read_log(worker)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_worker_that_fetches_nothing_is_ended(driver: TransportDriver, pool: str) -> None:
    deaf = driver.start_worker("--pool", pool, JOB_SABOTAGE="deaf", JOBWORKER_WORKER_LEASE=_LEASE_SECONDS)
    first = driver.publish()
    wait_until(lambda: [kind for kind, _, _ in driver.list_events()] == ["running", "succeeded"])
    driver.publish()
    _expect_end(driver, deaf, "worker_stalled")
    assert len(driver.engine.count_starts()) == len(first)


def test_worker_whose_event_loop_hangs_is_ended(driver: TransportDriver) -> None:
    hung = driver.start_worker(JOB_SABOTAGE="hang", JOBWORKER_WORKER_LEASE=_LEASE_SECONDS)
    driver.publish()
    _expect_end(driver, hung, "Timeout (0:00:04)!")
    assert "time.sleep" in driver.engine.read_log(hung) or "most recent call first" in driver.engine.read_log(hung)


def test_worker_that_is_idle_or_busy_is_not_ended(driver: TransportDriver) -> None:
    """Longer than its grace the worker first has no message, and then no free slot while messages wait."""
    worker = driver.start_worker(JOBWORKER_WORKER_LEASE=_LEASE_SECONDS)
    held = driver.publish("hold", count=2, seconds=6)
    waiting = driver.publish(count=5)
    driver.expect_only_done([*held, *waiting])
    worker.check_alive()


def test_worker_is_not_ended_for_queue_keys_of_another_type(redis_url: str, clock: ManualClock) -> None:
    queues = SimpleNamespace(queues=[SimpleNamespace(name="default"), SimpleNamespace(name="critical")])
    consumer = SimpleNamespace(task_consumer=queues, pool=SimpleNamespace(num_processes=1))
    ended: list[str] = []

    def look_for_a_while(watchdog: Watchdog) -> None:
        for _ in range(4):
            watchdog.check_worker()
            clock.advance(1)

    with connect_redis(redis_url) as client:
        for name in get_list_names("default"):
            client.set(name, "no list")
        watchdog = Watchdog(consumer, client, clock, 2, lambda: ended.append("ended"))
        look_for_a_while(watchdog)
        assert not ended
        client.lpush(get_list_names("critical")[1], "a message")
        look_for_a_while(watchdog)
        assert ended
