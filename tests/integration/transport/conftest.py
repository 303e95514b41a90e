"""A Redis of its own that a test may break, and a yard on it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobworker.store.database import Database
from tests.engine import Engine, engine_on
from tests.integration.transport.proxy import Proxy
from tests.integration.transport.yard import Yard
from tests.servers import RedisServer


@pytest.fixture
def own_server(own_redis: Callable[..., RedisServer]) -> RedisServer:
    """With an append-only file, as under `jobworker up`."""
    return own_redis(persistent=True)


@pytest.fixture
def engine(tmp_path: Path, sqlite_database: Database, sqlite_url: str, own_server: RedisServer) -> Iterator[Engine]:
    """Nothing started yet."""
    with engine_on(tmp_path, sqlite_database, sqlite_url, own_server.url) as engine:
        yield engine


@pytest.fixture
def yard(engine: Engine, own_server: RedisServer) -> Iterator[Yard]:
    """Redis and no worker yet."""
    with contextlib.closing(Yard(engine, own_server)) as yard:
        yield yard


@pytest.fixture
def proxy(own_server: RedisServer) -> Iterator[Proxy]:
    """A wire to the Redis that can be cut."""
    with contextlib.closing(Proxy(own_server.url)) as proxy:
        yield proxy
