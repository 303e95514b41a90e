"""How a worker hears what it has to stop: a Redis that is none, and a worker that holds what the test says."""

from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest

from jobworker.transport import keys
from jobworker.transport.claims import Claim
from jobworker.transport.orders import StopRequest, StopRequests
from jobworker.worker.desk import ControlTable
from jobworker.worker.orders import StopRequestPoller

_KEY = keys.ORDERS.format(worker="w1")


class StopRequestDriver:
    """One worker of a pool of threads, and its Redis."""

    def __init__(self) -> None:
        self.redis = fakeredis.FakeRedis(decode_responses=True)
        self.orders = StopRequests(self.redis)
        self.desk = ControlTable(slots=1)
        self.held: dict[str, Claim | None] = {}
        runner: Any = SimpleNamespace(
            worker="w1",
            desk=self.desk,
            mailbox=SimpleNamespace(held=self.held),
            link=SimpleNamespace(client=self.redis),
        )
        self.lookout = StopRequestPoller(runner, is_prefork=False)

    def start_attempt(self, execution: str, attempt: int, token: str) -> Any:
        """An attempt begins; its seat."""
        self.held[token] = Claim(execution, attempt, "w1", token)
        return self.desk.acquire(token)

    def list_pending(self) -> dict[str, str]:
        """What is left of the orders."""
        found: Any = self.redis.hgetall(_KEY)
        return dict(found)


@pytest.fixture
def world() -> StopRequestDriver:
    return StopRequestDriver()


def test_what_has_to_stop_is_told_and_the_rest_is_not(world: StopRequestDriver) -> None:
    one, other = world.start_attempt("e1", 1, "1"), world.start_attempt("e2", 3, "2")
    world.orders.publish("w1", [StopRequest("e2", 3, "ann")])
    world.lookout.poll()
    assert (one.cancelled, other.cancelled) == (False, True)
    assert 0 < world.redis.ttl(_KEY) <= keys.ORDERS_TTL
    assert list(world.list_pending()) == ["e2"], "the relay may give it again; nothing changes"


def test_an_order_about_another_attempt_or_another_time_is_taken_back(world: StopRequestDriver) -> None:
    seat = world.start_attempt("e1", 2, "1")
    world.orders.publish("w1", [StopRequest("e1", 1, "ann"), StopRequest("e9", 1, "ann")])
    world.lookout.poll()
    assert not seat.cancelled
    assert world.list_pending() == {}


def test_what_nobody_can_read_is_taken_back(world: StopRequestDriver) -> None:
    seat = world.start_attempt("e1", 1, "1")
    world.redis.hset(_KEY, mapping={"e1": "garbage", "e2": "[1]", "e3": '["x", 1]', "e4": "7"})
    world.lookout.poll()
    assert not seat.cancelled
    assert world.list_pending() == {}


def test_an_idle_worker_does_not_ask(world: StopRequestDriver) -> None:
    world.orders.publish("w1", [StopRequest("e1", 1, "ann")])
    world.lookout.poll()
    assert list(world.list_pending()) == ["e1"]


def test_a_key_of_another_kind_stops_nothing(world: StopRequestDriver) -> None:
    seat = world.start_attempt("e1", 1, "1")
    world.redis.set(_KEY, "no hash")
    world.lookout.poll()
    world.redis.delete(_KEY)
    world.orders.publish("w1", [StopRequest("e1", 1, "ann")])
    for _ in range(7):
        world.lookout.poll()
    assert seat.cancelled, "after a pause it asks again"
