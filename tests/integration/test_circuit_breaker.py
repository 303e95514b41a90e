"""Circuit breakers in a real Redis."""

import contextlib
from collections.abc import Iterator

import pytest
import redis

from jobworker.transport import keys
from jobworker.transport.circuit_breaker import CircuitBreaker
from tests.polling import until

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


def test_it_opens_after_failures_in_a_row(circuits: CircuitBreaker) -> None:
    assert [circuits.record_failure(TARGET, 3, 60) for _ in range(2)] == [1, 2]
    assert circuits.acquire_permission(TARGET, 10) == 0
    assert circuits.record_failure(TARGET, 3, 60) == 3
    assert 59 < circuits.acquire_permission(TARGET, 10) <= 60
    assert circuits.acquire_permission(OTHER, 10) == 0


def test_a_success_between_begins_anew(circuits: CircuitBreaker, client: redis.Redis) -> None:
    circuits.record_failure(TARGET, 2, 60)
    circuits.record_success(TARGET)
    assert not client.exists(keys.CIRCUIT.format(target=TARGET))
    assert circuits.record_failure(TARGET, 2, 60) == 1
    assert circuits.acquire_permission(TARGET, 10) == 0


def test_after_the_pause_one_tries_and_the_others_wait(circuits: CircuitBreaker) -> None:
    circuits.record_failure(TARGET, 1, 0.05)
    until(lambda: circuits.acquire_permission(TARGET, 600) == 0, what="the end of the pause")
    assert circuits.acquire_permission(TARGET, 600) == 2
    circuits.record_failure(TARGET, 1, 60)
    assert circuits.acquire_permission(TARGET, 600) > 2
    circuits.record_success(TARGET)
    assert circuits.acquire_permission(TARGET, 600) == 0


def test_who_tries_and_is_never_heard_of_again_blocks_nobody_for_ever(circuits: CircuitBreaker) -> None:
    circuits.record_failure(TARGET, 1, 0.05)
    until(lambda: circuits.acquire_permission(TARGET, 0.2) == 0)
    assert circuits.acquire_permission(TARGET, 0.2) == 2
    until(lambda: circuits.acquire_permission(TARGET, 600) == 0, what="the end of the trial")


def test_what_is_held_against_a_target_is_forgotten(circuits: CircuitBreaker, client: redis.Redis) -> None:
    circuits.record_failure(TARGET, 5, 60)
    assert 3600 < client.ttl(keys.CIRCUIT.format(target=TARGET)) <= 3660
