"""Engine on both databases, and two workers that share its work: one with processes, one with threads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.store.database.database import Database
from tests.servers import RedisServer
from tests.system_driver import SystemDriver, run_system


@pytest.fixture
def any_engine(
    tmp_path: Path, database: Database, database_url: str, own_server: RedisServer
) -> Iterator[SystemDriver]:
    """Engine without processes, on SQLite, then on PostgreSQL."""
    with run_system(tmp_path, database, database_url, own_server.url) as engine:
        yield engine


def start_two_workers(engine: SystemDriver) -> None:
    """Start two workers, which together could run seven executions at once."""
    engine.start_worker("-c", "3")
    engine.start_worker("-P", "threads", "-c", "4")


def list_activity(engine: SystemDriver) -> list[tuple[str, str]]:
    """Return (execution, "start" or "end") of both workers in chronological order."""
    lines = engine.activity_log.read_text().splitlines() if engine.activity_log.exists() else []
    return [(line.split()[0], line.split()[2]) for line in lines]


def list_started(engine: SystemDriver) -> list[str]:
    """Return the executions in the order of their starts."""
    return [execution for execution, activity in list_activity(engine) if activity == "start"]
