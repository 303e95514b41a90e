"""How a worker hears what it has to stop: a Redis that is none, and a worker that holds what the test says."""

from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest

from jobworker.transport import keys
from jobworker.transport.claims import Claim
from jobworker.transport.stop_requests import StopRequest, StopRequests
from jobworker.worker.control.slots import ControlTable
from jobworker.worker.control.stop_requests import StopRequestPoller

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
            control_table=self.desk,
            in_flight=SimpleNamespace(delivered=self.held),
            redis_connection=SimpleNamespace(client=self.redis),
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
def driver() -> StopRequestDriver:
    return StopRequestDriver()


def test_what_has_to_stop_is_told_and_the_rest_is_not(driver: StopRequestDriver) -> None:
    one, other = driver.start_attempt("e1", 1, "1"), driver.start_attempt("e2", 3, "2")
    driver.orders.publish("w1", [StopRequest("e2", 3, "ann")])
    driver.lookout.poll()
    assert (one.cancelled, other.cancelled) == (False, True)
    assert 0 < driver.redis.ttl(_KEY) <= keys.ORDERS_TTL
    assert list(driver.list_pending()) == ["e2"], "the relay may give it again; nothing changes"


def test_an_order_about_another_attempt_or_another_time_is_taken_back(driver: StopRequestDriver) -> None:
    seat = driver.start_attempt("e1", 2, "1")
    driver.orders.publish("w1", [StopRequest("e1", 1, "ann"), StopRequest("e9", 1, "ann")])
    driver.lookout.poll()
    assert not seat.cancelled
    assert driver.list_pending() == {}


def test_what_nobody_can_read_is_taken_back(driver: StopRequestDriver) -> None:
    seat = driver.start_attempt("e1", 1, "1")
    driver.redis.hset(_KEY, mapping={"e1": "garbage", "e2": "[1]", "e3": '["x", 1]', "e4": "7"})
    driver.lookout.poll()
    assert not seat.cancelled
    assert driver.list_pending() == {}


def test_an_idle_worker_does_not_ask(driver: StopRequestDriver) -> None:
    driver.orders.publish("w1", [StopRequest("e1", 1, "ann")])
    driver.lookout.poll()
    assert list(driver.list_pending()) == ["e1"]


def test_a_key_of_another_kind_stops_nothing(driver: StopRequestDriver) -> None:
    seat = driver.start_attempt("e1", 1, "1")
    driver.redis.set(_KEY, "no hash")
    driver.lookout.poll()
    driver.redis.delete(_KEY)
    driver.orders.publish("w1", [StopRequest("e1", 1, "ann")])
    for _ in range(7):
        driver.lookout.poll()
    assert seat.cancelled, "after a pause it asks again"
