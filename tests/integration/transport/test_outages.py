"""Redis goes away, drops connections, is full: workers live, do not stall, and run nothing twice."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobworker.transport import keys
from tests.integration.transport.yard import TransportDriver, make_running_check
from tests.servers import ServerProcess
from tests.waiting import until

#: A pool each on a queue of its own, and how many jobs it runs at a time.
_POOLS = {"prefork": ("critical", 2), "threads": ("default", 2), "solo": ("background", 1)}


@pytest.fixture
def workers(yard: TransportDriver) -> dict[str, ServerProcess]:
    """One worker of each pool, each with its own queue."""
    started = {
        pool: yard.start_worker("--pool", pool, "--queues", queue, "-n", f"{pool}@%h", wait=False)
        for pool, (queue, _) in _POOLS.items()
    }
    yard.wait_until_ready(*started.values())
    return started


@contextlib.contextmanager
def _occupy_all_slots(yard: TransportDriver, gate: Path) -> Iterator[list[str]]:
    """The executions that keep every slot of every worker busy until the gate opens, at the latest with the block."""
    held = [
        execution
        for queue, slots in _POOLS.values()
        for execution in yard.publish("wait_for_file", count=slots, queue=queue, path=str(gate))
    ]
    until(make_running_check(yard, held), what="every slot to be busy")
    yield held
    gate.touch()


def _publish_everywhere(yard: TransportDriver, count: int) -> list[str]:
    return [execution for queue, _ in _POOLS.values() for execution in yard.publish(count=count, queue=queue)]


def _check_workers(yard: TransportDriver, workers: dict[str, ServerProcess], names: set[str]) -> None:
    """All alive, under the same names, never taken for dead; and each still takes work."""
    for worker in workers.values():
        worker.check_alive()
    assert set(yard.list_workers()) == names
    assert not [kind for kind, _, _ in yard.list_events() if kind in ("worker_lost", "lost")]
    yard.expect_only_done(_publish_everywhere(yard, 5), within=15)


@pytest.mark.timeout(180)
def test_redis_restarts(yard: TransportDriver, workers: dict[str, ServerProcess], tmp_path: Path) -> None:
    """Idle and with all slots busy; the last time for several leases, and jobs end meanwhile."""
    names = set(yard.list_workers())
    _restart_redis(yard, down=2)
    _check_workers(yard, workers, names)
    for down in (4, 15):
        gate = tmp_path / f"gate-{down}"
        with _occupy_all_slots(yard, gate) as held:
            waiting = _publish_everywhere(yard, 20)
            yard.server.stop()
            time.sleep(down / 2)
            if down == 15:
                gate.touch()
            time.sleep(down / 2)
            yard.server.start()
        yard.expect_only_done([*held, *waiting])
        _check_workers(yard, workers, names)


def _restart_redis(yard: TransportDriver, down: float) -> None:
    yard.server.stop()
    time.sleep(down)
    yard.server.start()


def test_connections_dropped_every_second_under_load(yard: TransportDriver, workers: dict[str, ServerProcess]) -> None:
    names, executions = set(yard.list_workers()), []
    for _ in range(10):
        for _ in range(10):
            executions += _publish_everywhere(yard, 8)
            time.sleep(0.1)
        yard.close_connections()
    yard.expect_only_done(executions)
    _check_workers(yard, workers, names)


def test_redis_is_full(yard: TransportDriver, workers: dict[str, ServerProcess], tmp_path: Path) -> None:
    names = set(yard.list_workers())
    with _occupy_all_slots(yard, tmp_path / "gate") as held:
        waiting = _publish_everywhere(yard, 20)
        yard.client.config_set("maxmemory", "1mb")
    until(
        lambda: all("redis_takes_no_reports" in yard.engine.read_log(worker) for worker in workers.values()),
        what="reports to be refused",
    )
    until(lambda: all(yard.engine.count_ends()[execution, 1] for execution in held), what="the jobs to end")
    _wait_for_heartbeats(yard, seconds=4)
    assert sum(map(len, yard.list_in_flight().values())) >= len(held)
    assert not [kind for kind, execution, _ in yard.list_events() if kind == "succeeded" and execution in held]
    begun = len(yard.engine.count_starts())
    _wait_for_heartbeats(yard, seconds=1)
    assert len(yard.engine.count_starts()) == begun, "nothing begins while reports cannot leave"
    yard.client.config_set("maxmemory", "0")
    yard.expect_only_done([*held, *waiting])
    _check_workers(yard, workers, names)


def _wait_for_heartbeats(yard: TransportDriver, seconds: float) -> None:
    """So many seconds, by the clock of Redis and the heartbeats of all workers."""

    def oldest() -> float:
        heard: Any = yard.client.zrange(keys.WORKERS, 0, -1, withscores=True)
        return min(float(score) for _, score in heard)

    begun = oldest()
    until(lambda: oldest() - begun > seconds * 1000, what="heartbeats while Redis is full")


@pytest.mark.parametrize("pool", list(_POOLS))
def test_celerys_consumer_starts_over(yard: TransportDriver, pool: str, tmp_path: Path) -> None:
    """For whatever reason, with jobs in hand and messages on their way."""
    worker = yard.start_worker("--pool", pool, JOB_SABOTAGE="start over")
    gate = tmp_path / "gate"
    first = [] if pool == "solo" else yard.publish("wait_for_file", path=str(gate))
    executions = yard.publish(count=300)
    until(lambda: len(yard.engine.count_starts()) > 200)
    gate.touch()
    yard.expect_only_done([*first, *executions])
    assert yard.engine.read_log(worker).count("Connection to broker lost") >= 2
    yard.expect_only_done(yard.publish(count=5))
    worker.check_alive()
