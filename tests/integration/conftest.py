"""Redis that a test may break, an engine on it, and the scheduler of beat with its entries."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from jobworker.store import migrate
from jobworker.store.database.database import Database
from jobworker.transport.beat import Scheduler
from tests.engine import Engine, run_engine
from tests.integration.test_beat import BeatSchedule, make_scheduler
from tests.integration.test_beat_sync import BeatSyncDriver, create_driver
from tests.servers import RedisServer, run_server


@pytest.fixture
def own_server(own_redis: Callable[..., RedisServer]) -> RedisServer:
    """Redis of one test, with an append-only file as under `jobworker up`."""
    return own_redis(persistent=True)


@pytest.fixture
def engine(tmp_path: Path, sqlite_database: Database, sqlite_url: str, own_server: RedisServer) -> Iterator[Engine]:
    """Engine without processes, on SQLite."""
    with run_engine(tmp_path, sqlite_database, sqlite_url, own_server.url) as engine:
        yield engine


@pytest.fixture
def any_engine(tmp_path: Path, database: Database, database_url: str, own_server: RedisServer) -> Iterator[Engine]:
    """Engine without processes, on SQLite, then on PostgreSQL."""
    with run_engine(tmp_path, database, database_url, own_server.url) as engine:
        yield engine


@pytest.fixture(scope="module", params=["prefork", "threads"])
def running_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Engine with a relay and a worker of each kind, ready to run every job."""
    folder = tmp_path_factory.mktemp(request.param)
    url = f"sqlite:///{folder / 'jobworker.db'}"
    migrate.upgrade(url)
    database = Database(url)
    server = RedisServer(folder / "redis")
    with run_server(server), run_engine(folder, database, url, server.url) as engine:
        engine.start_relay()
        engine.start_worker("--pool", request.param)
        engine.wait_until_ready()
        yield engine
    database.dispose()


@pytest.fixture(scope="module")
def persistent_engine(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[Engine]:
    """Engine without processes, on SQLite, for all tests of a module: a test finds the processes of earlier ones."""
    folder = tmp_path_factory.mktemp("engine")
    url = f"sqlite:///{shutil.copy(_sqlite_template, folder / 'jobworker.db')}"
    server, database = RedisServer(folder / "redis", persistent=True), Database(url)
    with run_server(server), run_engine(folder, database, url, server.url) as engine:
        yield engine
    database.dispose()


@pytest.fixture
def schedule(redis_url: str) -> Iterator[BeatSchedule]:
    """Schedule of beat in the Redis of the test."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield BeatSchedule(client)


@pytest.fixture
def beat(redis_url: str) -> Scheduler:
    """Scheduler of beat, in the process of the test."""
    return make_scheduler(redis_url)


@pytest.fixture
def sync_driver(sqlite_database: Database, schedule: BeatSchedule) -> BeatSyncDriver:
    """Projector of a relay on SQLite that writes the schedule of beat."""
    return create_driver(sqlite_database, schedule.client)
