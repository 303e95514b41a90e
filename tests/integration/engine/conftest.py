"""An engine on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.store.database import Database
from tests.engine import Engine, engine_on
from tests.servers import RedisServer


@pytest.fixture
def any_engine(tmp_path: Path, database: Database, database_url: str, own_server: RedisServer) -> Iterator[Engine]:
    """Nothing started yet, once on SQLite and once on PostgreSQL."""
    with engine_on(tmp_path, database, database_url, own_server.url) as engine:
        yield engine
