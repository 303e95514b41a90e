"""A Redis that a test may break, and an engine on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobworker.store.database import Database
from tests.engine import Engine, engine_on
from tests.servers import RedisServer


@pytest.fixture
def own_server(own_redis: Callable[..., RedisServer]) -> RedisServer:
    """A Redis of the test's own, with an append-only file as under `jobworker up`."""
    return own_redis(persistent=True)


@pytest.fixture
def engine(tmp_path: Path, sqlite_database: Database, sqlite_url: str, own_server: RedisServer) -> Iterator[Engine]:
    """Nothing started yet, on SQLite."""
    with engine_on(tmp_path, sqlite_database, sqlite_url, own_server.url) as engine:
        yield engine
