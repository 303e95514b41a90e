"""Fixtures for all tests. Servers start once per test process (also with pytest-xdist), and only when requested."""

import contextlib
import datetime as dt
import os
import shutil
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from jobworker.clock import ManualClock
from jobworker.store import migrate, unreadable_rows
from jobworker.store.database.database import Database
from tests.servers import PostgresServer, RedisServer, find_other_redis, find_postgres_binaries, run_server

# Generated tests assert no durations, because a busy machine must not fail them.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_TEMPLATE_DATABASE = "jobworker_template"

#: Initial time of the manual clock.
NOW = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _forget_unreadable_rows() -> None:
    """Forget unreadable rows of earlier tests in this process, because relays and web processes report them."""
    for problem in unreadable_rows.problem_log.get_problems():
        unreadable_rows.problem_log.forget(problem)


@pytest.fixture(autouse=True)
def _restore_signal_handlers() -> Iterator[None]:
    """Restore the signal handlers that commands change in this process, because forked children inherit them."""
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    }
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands at `NOW` until the test moves it."""
    return ManualClock(NOW)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked with `every_redis` on the bundled server and on another server."""
    if "redis_command" in metafunc.fixturenames and metafunc.definition.get_closest_marker("every_redis"):
        metafunc.parametrize("redis_command", ["bundled", "other"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def redis_command(request: pytest.FixtureRequest) -> list[str] | None:
    """The command of the Redis server that a test runs on; None: the bundled one."""
    if getattr(request, "param", "bundled") == "bundled":
        return None
    command = find_other_redis()
    if command is None:
        skip_or_fail(
            "no other Redis to test on (Debian: apt-get install redis-server, or name one in JOBWORKER_TEST_REDIS)"
        )
    return command


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory, redis_command: list[str] | None) -> Iterator[RedisServer]:
    """The Redis that all tests of this process share; tests that break their Redis use `own_redis`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), command=redis_command)
    with run_server(server):
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty Redis."""
    with contextlib.closing(redis_server.create_client()) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def own_redis(tmp_path: Path, redis_command: list[str] | None) -> Iterator[Callable[..., RedisServer]]:
    """A function that starts Redis servers for this test alone; `own_redis(persistent=True)` starts one with AOF."""
    with contextlib.ExitStack() as servers:

        def start(persistent: bool = False) -> RedisServer:
            server = RedisServer(tmp_path / f"redis-{uuid.uuid4().hex[:8]}", persistent, redis_command)
            servers.enter_context(run_server(server))
            return server

        yield start


def skip_or_fail(missing: str) -> NoReturn:
    """Skip the test, or fail it in CI, where all requirements must be installed."""
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL that all tests of this process share, with a migrated template database."""
    binaries = find_postgres_binaries()
    if binaries is None:
        skip_or_fail("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    server = PostgresServer(binaries)
    with run_server(server):
        server.create_database(_TEMPLATE_DATABASE)
        migrate.upgrade(server.get_url(_TEMPLATE_DATABASE))
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a migrated PostgreSQL database for this test alone."""
    name = f"test_{uuid.uuid4().hex}"
    postgres.create_database(name, _TEMPLATE_DATABASE)
    yield postgres.get_url(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate.upgrade(f"sqlite:///{path}")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, _sqlite_template: Path) -> str:
    """The URL of a migrated SQLite database for this test alone."""
    path = tmp_path / "jobworker.db"
    shutil.copy(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated database for this test alone, once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database for this test alone, once on SQLite and once on PostgreSQL."""
    yield from _open_database(database_url)


@pytest.fixture
def sqlite_database(sqlite_url: str) -> Iterator[Database]:
    """A migrated SQLite database for tests that do not depend on the kind of database."""
    yield from _open_database(sqlite_url)


def _open_database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.dispose()
