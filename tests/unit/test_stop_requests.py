"""Polling of stop requests by a worker, with a fake Redis and attempts that the test starts."""

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
    """A worker with a pool of threads, and its Redis."""

    def __init__(self) -> None:
        self.redis = fakeredis.FakeRedis(decode_responses=True)
        self.stop_requests = StopRequests(self.redis)
        self.control_table = ControlTable(slots=1)
        self.held: dict[str, Claim | None] = {}
        runner: Any = SimpleNamespace(
            worker="w1",
            control_table=self.control_table,
            in_flight=SimpleNamespace(delivered=self.held),
            redis_connection=SimpleNamespace(client=self.redis),
        )
        self.poller = StopRequestPoller(runner, is_prefork=False)

    def start_attempt(self, execution: str, attempt: int, token: str) -> Any:
        """Start an attempt and return its control slot."""
        self.held[token] = Claim(execution, attempt, "w1", token)
        return self.control_table.acquire(token)

    def list_pending(self) -> dict[str, str]:
        """Return the stop requests that are left, by execution."""
        pending: Any = self.redis.hgetall(_KEY)
        return dict(pending)


@pytest.fixture
def driver() -> StopRequestDriver:
    return StopRequestDriver()


def test_stop_request_cancels_only_its_attempt(driver: StopRequestDriver) -> None:
    first, second = driver.start_attempt("e1", 1, "1"), driver.start_attempt("e2", 3, "2")
    driver.stop_requests.publish("w1", [StopRequest("e2", 3, "ann")])
    driver.poller.poll()
    assert (first.cancelled, second.cancelled) == (False, True)
    assert 0 < driver.redis.ttl(_KEY) <= keys.ORDERS_TTL
    assert list(driver.list_pending()) == ["e2"], "the relay may give it again; nothing changes"


def test_stale_stop_requests_removed(driver: StopRequestDriver) -> None:
    slot = driver.start_attempt("e1", 2, "1")
    driver.stop_requests.publish("w1", [StopRequest("e1", 1, "ann"), StopRequest("e9", 1, "ann")])
    driver.poller.poll()
    assert not slot.cancelled
    assert driver.list_pending() == {}


def test_unreadable_stop_requests_removed(driver: StopRequestDriver) -> None:
    slot = driver.start_attempt("e1", 1, "1")
    driver.redis.hset(_KEY, mapping={"e1": "garbage", "e2": "[1]", "e3": '["x", 1]', "e4": "7"})
    driver.poller.poll()
    assert not slot.cancelled
    assert driver.list_pending() == {}


def test_idle_worker_does_not_poll(driver: StopRequestDriver) -> None:
    driver.stop_requests.publish("w1", [StopRequest("e1", 1, "ann")])
    driver.poller.poll()
    assert list(driver.list_pending()) == ["e1"]


def test_wrong_redis_type_pauses_polling(driver: StopRequestDriver) -> None:
    slot = driver.start_attempt("e1", 1, "1")
    driver.redis.set(_KEY, "no hash")
    driver.poller.poll()
    driver.redis.delete(_KEY)
    driver.stop_requests.publish("w1", [StopRequest("e1", 1, "ann")])
    for _ in range(7):
        driver.poller.poll()
    assert slot.cancelled, "after a pause it asks again"
