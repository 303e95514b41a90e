"""Relay and worker on both databases."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.store.database.database import Database
from tests.integration.workflows.workflow_driver import WorkflowDriver
from tests.servers import PostgresServer, RedisServer, run_server
from tests.system_driver import run_system


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkflowDriver]:
    """Driver with running processes, shared by all tests of a module."""
    folder = tmp_path_factory.mktemp("workflows")
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("_sqlite_template")
        url = f"sqlite:///{shutil.copy(template, folder / 'jobworker.db')}"
    else:
        postgres: PostgresServer = request.getfixturevalue("postgres")
        postgres.create_database("workflows", "jobworker_template")
        url = postgres.get_url("workflows")
    server, database = RedisServer(folder / "redis", persistent=True), Database(url)
    with run_server(server), run_system(folder, database, url, server.url) as engine:
        engine.start()
        yield WorkflowDriver(engine)
    database.dispose()
    if request.param == "postgresql":
        postgres.drop_database("workflows")


@pytest.fixture
def own_driver(
    tmp_path: Path, database: Database, database_url: str, own_server: RedisServer
) -> Iterator[WorkflowDriver]:
    """Driver without processes, for one test."""
    with run_system(tmp_path, database, database_url, own_server.url) as engine:
        yield WorkflowDriver(engine)
