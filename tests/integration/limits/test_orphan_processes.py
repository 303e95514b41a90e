"""Ends of workers: no process of the worker or of its jobs is left."""

import os
import signal
from collections.abc import Iterator

import pytest

from jobworker.domain.executions.execution import ExecutionState
from jobworker.transport import keys
from tests.child_processes import filter_alive, get_attempt_pid, kill_processes, list_descendants, list_started_pids
from tests.engine import Engine
from tests.polling import wait_until
from tests.servers import RedisServer, ServerProcess


class OrphanProcessDriver:
    """Worker with a job that ignores signals, and all processes that belong to it."""

    def __init__(self, engine: Engine, *options: str) -> None:
        self.engine = engine
        engine.start_relay()
        self.worker: ServerProcess = engine.start_worker(*options)
        engine.wait_until_ready("ignore_termination")
        self.execution = engine.submit_one("ignore_termination")
        wait_until(
            lambda: engine.get(self.execution).state is ExecutionState.RUNNING and engine.is_running(self.execution)
        )
        plain, self.detached_pid, orphan = list_started_pids(engine, self.execution)
        self.pids = [get_attempt_pid(engine, self.execution), plain, orphan, *list_descendants(self.worker.pid)]
        self.pids = [
            pid for pid in self.pids if pid != self.detached_pid and pid not in list_descendants(self.detached_pid)
        ]
        assert filter_alive(self.pids) == self.pids

    def has_ended(self) -> bool:
        """Return whether all processes ended. A killed worker cannot find processes that have left the group."""
        return not self.worker.is_alive() and not filter_alive(self.pids)


@pytest.fixture
def driver(engine: Engine) -> Iterator[OrphanProcessDriver]:
    orphan_driver = OrphanProcessDriver(engine, "--", "worker.soft_shutdown_timeout=0")
    yield orphan_driver
    kill_processes(orphan_driver.detached_pid, *list_descendants(orphan_driver.detached_pid))


def test_sigquit_leaves_no_process(driver: OrphanProcessDriver) -> None:
    """The job ignores SIGTERM, for which the worker would wait without end."""
    driver.worker.send_signal(signal.SIGQUIT)
    wait_until(driver.has_ended, what=f"the end of {driver.pids}")
    wait_until(lambda: not filter_alive([driver.detached_pid]))


def test_second_ctrl_c_leaves_no_process(driver: OrphanProcessDriver) -> None:
    driver.worker.send_signal(signal.SIGINT)
    wait_until(lambda: "Warm shutdown" in driver.engine.read_log(driver.worker))
    driver.worker.send_signal(signal.SIGINT)
    wait_until(driver.has_ended, what=f"the end of {driver.pids}")


def test_sigkill_leaves_no_process(driver: OrphanProcessDriver) -> None:
    driver.worker.terminate(signal.SIGKILL)
    wait_until(driver.has_ended, what=f"the end of {driver.pids}")


def test_fenced_worker_leaves_no_process(driver: OrphanProcessDriver, own_server: RedisServer) -> None:
    [worker] = own_server.create_client().zrange(keys.WORKERS, 0, -1)
    own_server.create_client().set(keys.FENCE.format(worker=worker), 1)
    wait_until(driver.has_ended, what=f"the end of {driver.pids}")
    wait_until(lambda: not filter_alive([driver.detached_pid]))


def test_killed_pool_process_leaves_no_children(driver: OrphanProcessDriver) -> None:
    process, *others = driver.pids[:3]
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: not filter_alive([process, *others]), what=f"the end of {others}")
    driver.worker.check_alive()
