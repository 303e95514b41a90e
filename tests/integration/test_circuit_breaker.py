"""Circuit breakers in a real Redis."""

import contextlib
from collections.abc import Iterator

import pytest
import redis

from jobworker.transport import keys
from jobworker.transport.circuit_breaker import CircuitBreaker
from tests.polling import wait_until

pytestmark = pytest.mark.every_redis

TARGET = "http://host.example:80"
OTHER = "http://other.example:80"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


@pytest.fixture
def circuits(client: redis.Redis) -> CircuitBreaker:
    return CircuitBreaker(client)


def test_circuit_opens_after_consecutive_failures(circuits: CircuitBreaker) -> None:
    assert [circuits.record_failure(TARGET, 3, 60) for _ in range(2)] == [1, 2]
    assert circuits.acquire_permission(TARGET, 10) == 0
    assert circuits.record_failure(TARGET, 3, 60) == 3
    assert 59 < circuits.acquire_permission(TARGET, 10) <= 60
    assert circuits.acquire_permission(OTHER, 10) == 0


def test_success_resets_the_failure_count(circuits: CircuitBreaker, client: redis.Redis) -> None:
    circuits.record_failure(TARGET, 2, 60)
    circuits.record_success(TARGET)
    assert not client.exists(keys.CIRCUIT.format(target=TARGET))
    assert circuits.record_failure(TARGET, 2, 60) == 1
    assert circuits.acquire_permission(TARGET, 10) == 0


def test_half_open_circuit_permits_one_trial(circuits: CircuitBreaker) -> None:
    circuits.record_failure(TARGET, 1, 0.05)
    wait_until(lambda: circuits.acquire_permission(TARGET, 600) == 0, what="the end of the pause")
    assert circuits.acquire_permission(TARGET, 600) == 2
    circuits.record_failure(TARGET, 1, 60)
    assert circuits.acquire_permission(TARGET, 600) > 2
    circuits.record_success(TARGET)
    assert circuits.acquire_permission(TARGET, 600) == 0


def test_trial_without_result_expires(circuits: CircuitBreaker) -> None:
    circuits.record_failure(TARGET, 1, 0.05)
    wait_until(lambda: circuits.acquire_permission(TARGET, 0.2) == 0)
    assert circuits.acquire_permission(TARGET, 0.2) == 2
    wait_until(lambda: circuits.acquire_permission(TARGET, 600) == 0, what="the end of the trial")


def test_failure_count_expires(circuits: CircuitBreaker, client: redis.Redis) -> None:
    circuits.record_failure(TARGET, 5, 60)
    assert 3600 < client.ttl(keys.CIRCUIT.format(target=TARGET)) <= 3660
