"""One engine for each kind of pool, for all the tests that do not break it."""

from collections.abc import Iterator

import pytest

from jobworker.store import migrate
from jobworker.store.database import Database
from tests.engine import Engine, engine_on
from tests.servers import RedisServer, running


@pytest.fixture(scope="package", params=["prefork", "threads"])
def at_work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A relay and a worker of each kind, ready to run every job."""
    folder = tmp_path_factory.mktemp(request.param)
    url = f"sqlite:///{folder / 'jobworker.db'}"
    migrate.upgrade(url)
    database = Database(url)
    server = RedisServer(folder / "redis")
    with running(server), engine_on(folder, database, url, server.url) as engine:
        engine.relay()
        engine.worker("--pool", request.param)
        engine.ready()
        yield engine
    database.dispose()
