"""Full Redis: the relay records, frees memory and cancels; workers keep their reports until there is memory."""

from collections.abc import Callable, Iterator

import pytest
import redis

from jobworker.clock import ManualClock
from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.relay.loop import Relay
from jobworker.store import relay_state
from jobworker.store.database.database import Database
from jobworker.transport import keys
from tests.engine import Engine
from tests.integration.relay.conftest import SEND, DispatchDriver, create_relay
from tests.polling import wait_until
from tests.servers import RedisServer


@pytest.fixture
def server(own_redis: Callable[..., RedisServer]) -> RedisServer:
    return own_redis()


@pytest.fixture
def own_driver(sqlite_database: Database, server: RedisServer, clock: ManualClock) -> Iterator[DispatchDriver]:
    with server.create_client() as client:
        yield DispatchDriver(sqlite_database, client, clock)


@pytest.fixture
def relay(own_driver: DispatchDriver, server: RedisServer) -> Relay:
    """Relay that leads, with a worker that can run every task."""
    own_driver.resign_leadership()
    relay = create_relay(own_driver, server.url)
    relay.run_turn()
    own_driver.client.zadd(keys.WORKERS, {"w1": 10**14})
    return relay


def set_memory_limit(client: redis.Redis, megabytes: float) -> None:
    """Set the memory limit of Redis; 0 means no limit. The smallest limit is exceeded at once."""
    client.config_set("maxmemory", int(megabytes * 1024 * 1024))


def test_full_redis_does_not_stop_recording_trimming_and_cancelling(own_driver: DispatchDriver, relay: Relay) -> None:
    running, queued = own_driver.submit(), own_driver.submit()
    own_driver.request_cancel(queued)
    for kind in (EventKind.RUNNING, EventKind.SUCCEEDED):
        fields = events.encode(kind, running, 1, {"worker": "w1", "token": "1", "result": 1})
        own_driver.client.xadd(keys.EVENTS, fields)  # type: ignore[arg-type]
    with own_driver.database.read() as connection:
        before = relay_state.get(connection)
    set_memory_limit(own_driver.client, 0.001)
    for _ in range(5):
        own_driver.clock.advance(2)
        relay.run_turn()
    assert own_driver.get_execution(running).state is ExecutionState.SUCCEEDED
    assert own_driver.get_execution(queued).state is ExecutionState.CANCELLED
    assert own_driver.client.xlen(keys.EVENTS) <= 1
    with own_driver.database.read() as connection:
        assert relay_state.get(connection).renewals > before.renewals, "it still leads"


def test_unpublished_messages_are_published_when_redis_has_room(own_driver: DispatchDriver, relay: Relay) -> None:
    set_memory_limit(own_driver.client, 0.001)
    executions = own_driver.submit_many(SEND, 50)
    relay._dispatcher.workers = own_driver.dispatcher.workers
    for _ in range(3):
        relay._dispatch_ready()
        own_driver.clock.advance(10)
    assert own_driver.list_published() == set()
    [problem] = relay._problems.list_current()
    assert (problem.item, problem.detail[:16]) == ("step dispatch", "OutOfMemoryError")
    set_memory_limit(own_driver.client, 0)
    relay._dispatch_ready()
    own_driver.clock.advance(10)
    for _ in range(60):
        own_driver.clock.advance(1)
        relay._dispatch_ready()
    assert own_driver.list_published() == set(executions)
    assert sorted(own_driver.list_queued()) == sorted(executions)


def test_jobs_that_need_more_memory_than_redis_has_all_run_once(engine: Engine, own_server: RedisServer) -> None:
    """Messages and results need many times the memory of Redis."""
    engine.start()
    with own_server.create_client() as client:
        used = int(client.info("memory")["used_memory"])
        set_memory_limit(client, used / 1024 / 1024 + 3)
        executions = [key for _ in range(6) for key in engine.submit("echo", 50, value="x" * 30_000)]
        wait_until(
            lambda: all(engine.get(key).state is ExecutionState.SUCCEEDED for key in executions), within=100, every=0.5
        )
        assert int(client.info("memory")["used_memory"]) < used + 6 * 1024 * 1024
    assert {engine.get(key).attempt for key in executions} == {1}
