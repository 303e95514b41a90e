"""However a worker ends, nothing of it is left: not its processes, and not what their jobs have started."""

import os
import signal
from collections.abc import Iterator

import pytest

from jobworker.domain.execution import State
from jobworker.transport import keys
from tests.engine import Engine
from tests.offspring import alive, children, end, offspring, process_of
from tests.servers import Process, RedisServer
from tests.waiting import until


class Household:
    """A worker with a job that clings to life, and all the processes that belong to it."""

    def __init__(self, engine: Engine, *options: str) -> None:
        self.engine = engine
        engine.relay()
        self.worker: Process = engine.worker(*options)
        engine.ready("clings")
        self.execution = engine.submit_one("clings")
        until(lambda: engine.get(self.execution).state is State.RUNNING and engine.is_running(self.execution))
        plain, self.apart, orphan = children(engine, self.execution)
        self.near = [process_of(engine, self.execution), plain, orphan, *offspring(self.worker.pid)]
        self.near = [pid for pid in self.near if pid != self.apart and pid not in offspring(self.apart)]
        assert alive(self.near) == self.near

    def is_gone(self) -> bool:
        """Whether nothing of it is left. Who was killed cannot look for those that have left the group."""
        return not self.worker.is_alive() and not alive(self.near)


@pytest.fixture
def household(engine: Engine) -> Iterator[Household]:
    made = Household(engine, "--", "worker.soft_shutdown_timeout=0")
    yield made
    end(made.apart, *offspring(made.apart))


def test_told_to_interrupt_its_jobs(household: Household) -> None:
    """Also one that ignores SIGTERM, which the worker would wait for without end."""
    household.worker.send(signal.SIGQUIT)
    until(household.is_gone, what=f"the end of {household.near}")
    until(lambda: not alive([household.apart]))


def test_told_twice_from_the_keyboard(household: Household) -> None:
    household.worker.send(signal.SIGINT)
    until(lambda: "Warm shutdown" in household.engine.log(household.worker))
    household.worker.send(signal.SIGINT)
    until(household.is_gone, what=f"the end of {household.near}")


def test_killed(household: Household) -> None:
    household.worker.end(signal.SIGKILL)
    until(household.is_gone, what=f"the end of {household.near}")


def test_given_up(household: Household, own_server: RedisServer) -> None:
    [worker] = own_server.client().zrange(keys.WORKERS, 0, -1)
    own_server.client().set(keys.FENCE.format(worker=worker), 1)
    until(household.is_gone, what=f"the end of {household.near}")
    until(lambda: not alive([household.apart]))


def test_a_process_that_somebody_kills_takes_its_children_along(household: Household) -> None:
    process, *others = household.near[:3]
    os.kill(process, signal.SIGKILL)
    until(lambda: not alive([process, *others]), what=f"the end of {others}")
    household.worker.must_live()
