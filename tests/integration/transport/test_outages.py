"""Outages of Redis: restarts, dropped connections, full memory. Workers survive, do not stall, and run no job twice."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobworker.transport import keys
from tests.integration.transport.transport_driver import TransportDriver, make_running_check
from tests.polling import wait_until
from tests.servers import ServerProcess

#: Queue of each pool, and its number of slots.
_POOLS = {"prefork": ("critical", 2), "threads": ("default", 2), "solo": ("background", 1)}


@pytest.fixture
def workers(driver: TransportDriver) -> dict[str, ServerProcess]:
    """Workers, one of each pool, each with its own queue."""
    started = {
        pool: driver.start_worker("--pool", pool, "--queues", queue, "-n", f"{pool}@%h", wait=False)
        for pool, (queue, _) in _POOLS.items()
    }
    driver.wait_until_ready(*started.values())
    return started


@contextlib.contextmanager
def _occupy_pool(driver: TransportDriver, gate: Path) -> Iterator[list[str]]:
    """Yield executions that occupy every slot of every worker until the gate opens, or until the block ends."""
    held = [
        execution
        for queue, slots in _POOLS.values()
        for execution in driver.publish("wait_for_file", count=slots, queue=queue, path=str(gate))
    ]
    wait_until(make_running_check(driver, held), what="every slot to be busy")
    yield held
    gate.touch()


def _publish_everywhere(driver: TransportDriver, count: int) -> list[str]:
    return [execution for queue, _ in _POOLS.values() for execution in driver.publish(count=count, queue=queue)]


def _check_workers(driver: TransportDriver, workers: dict[str, ServerProcess], names: set[str]) -> None:
    """Check that all workers are alive under unchanged names, were never given up, and still run jobs."""
    for worker in workers.values():
        worker.check_alive()
    assert set(driver.list_workers()) == names
    assert not [kind for kind, _, _ in driver.list_events() if kind in ("worker_lost", "lost")]
    driver.expect_only_done(_publish_everywhere(driver, 5), within=15)


@pytest.mark.timeout(180)
def test_workers_survive_redis_restarts(
    driver: TransportDriver, workers: dict[str, ServerProcess], tmp_path: Path
) -> None:
    """Redis restarts while idle and with all slots busy; the last outage lasts several leases, and jobs end in it."""
    names = set(driver.list_workers())
    _restart_redis(driver, down=2)
    _check_workers(driver, workers, names)
    for down in (4, 15):
        gate = tmp_path / f"gate-{down}"
        with _occupy_pool(driver, gate) as held:
            waiting = _publish_everywhere(driver, 20)
            driver.server.stop()
            time.sleep(down / 2)
            if down == 15:
                gate.touch()
            time.sleep(down / 2)
            driver.server.start()
        driver.expect_only_done([*held, *waiting])
        _check_workers(driver, workers, names)


def _restart_redis(driver: TransportDriver, down: float) -> None:
    driver.server.stop()
    time.sleep(down)
    driver.server.start()


def test_workers_survive_dropped_connections_under_load(
    driver: TransportDriver, workers: dict[str, ServerProcess]
) -> None:
    names, executions = set(driver.list_workers()), []
    for _ in range(10):
        for _ in range(10):
            executions += _publish_everywhere(driver, 8)
            time.sleep(0.1)
        driver.close_connections()
    driver.expect_only_done(executions)
    _check_workers(driver, workers, names)


def test_workers_survive_a_full_redis(
    driver: TransportDriver, workers: dict[str, ServerProcess], tmp_path: Path
) -> None:
    names = set(driver.list_workers())
    with _occupy_pool(driver, tmp_path / "gate") as held:
        waiting = _publish_everywhere(driver, 20)
        driver.client.config_set("maxmemory", "1mb")
    wait_until(
        lambda: all("redis_takes_no_reports" in driver.engine.read_log(worker) for worker in workers.values()),
        what="reports to be refused",
    )
    wait_until(lambda: all(driver.engine.count_ends()[execution, 1] for execution in held), what="the jobs to end")
    _wait_for_heartbeats(driver, seconds=4)
    assert sum(map(len, driver.list_in_flight().values())) >= len(held)
    assert not [kind for kind, execution, _ in driver.list_events() if kind == "succeeded" and execution in held]
    begun = len(driver.engine.count_starts())
    _wait_for_heartbeats(driver, seconds=1)
    assert len(driver.engine.count_starts()) == begun, "nothing begins while reports cannot leave"
    driver.client.config_set("maxmemory", "0")
    driver.expect_only_done([*held, *waiting])
    _check_workers(driver, workers, names)


def _wait_for_heartbeats(driver: TransportDriver, seconds: float) -> None:
    """Wait this many seconds by the clock of Redis and the heartbeats of all workers."""

    def oldest() -> float:
        heard: Any = driver.client.zrange(keys.WORKERS, 0, -1, withscores=True)
        return min(float(score) for _, score in heard)

    begun = oldest()
    wait_until(lambda: oldest() - begun > seconds * 1000, what="heartbeats while Redis is full")


@pytest.mark.parametrize("pool", list(_POOLS))
def test_worker_survives_a_restart_of_the_celery_consumer(driver: TransportDriver, pool: str, tmp_path: Path) -> None:
    """The consumer may restart for any reason, with running jobs and messages in flight."""
    worker = driver.start_worker("--pool", pool, JOB_SABOTAGE="start over")
    gate = tmp_path / "gate"
    first = [] if pool == "solo" else driver.publish("wait_for_file", path=str(gate))
    executions = driver.publish(count=300)
    wait_until(lambda: len(driver.engine.count_starts()) > 200)
    gate.touch()
    driver.expect_only_done([*first, *executions])
    assert driver.engine.read_log(worker).count("Connection to broker lost") >= 2
    driver.expect_only_done(driver.publish(count=5))
    worker.check_alive()
