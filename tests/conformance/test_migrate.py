"""Upgrades: single and concurrent, from an empty database, and the errors when code and database do not match."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import ConfigurationError
from jobworker.store import migrate
from jobworker.store.database.database import Database
from jobworker.store.tables import core


def set_revision(database: Database, revision: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_fresh_database_passes_revision_check(database: Database, database_url: str) -> None:
    migrate.check_revision(database)
    assert migrate.get_revision(database_url) == migrate.get_head()


def test_upgrade_again_changes_nothing(database: Database, database_url: str) -> None:
    with database.write() as connection:
        connection.execute(sa.insert(core.queues).values(name="critical", created_at=sa.func.now()))
    assert migrate.upgrade(database_url) == migrate.get_head()
    with database.read() as connection:
        assert connection.scalars(sa.select(core.queues.c.name)).all() == ["critical"]


def test_upgrade_creates_relay_state_row(database: Database) -> None:
    with database.read() as connection:
        rows = connection.execute(sa.select(core.relay_state)).mappings().all()
    assert [(row["id"], row["epoch"], row["events_offset"], row["logs_offset"]) for row in rows] == [
        (1, None, "0-0", "0-0")
    ]


def test_newer_database_is_rejected_and_unchanged(database: Database, database_url: str) -> None:
    set_revision(database, "9999")
    for action in (lambda: migrate.check_revision(database), lambda: migrate.upgrade(database_url)):
        with pytest.raises(ConfigurationError, match=r"9999, made by a newer JobWorker; upgrade the code"):
            action()
    assert migrate.get_revision(database_url) == "9999"


def test_empty_database_error_names_the_upgrade_command(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    database = Database(url)
    assert migrate.get_revision(url) is None
    with pytest.raises(ConfigurationError, match=r"run jobworker db upgrade"):
        migrate.check_revision(database)
    migrate.upgrade(url)
    migrate.check_revision(database)
    database.dispose()


def test_concurrent_upgrades_succeed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    assert _upgrade_together(url) == [migrate.get_head()] * 4


def test_concurrent_upgrades_succeed_on_postgresql(postgres: object, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgres")
    server.create_database("together")
    try:
        assert _upgrade_together(server.get_url("together")) == [migrate.get_head()] * 4
    finally:
        server.drop_database("together")


def _upgrade_together(url: str) -> list[str]:
    start = threading.Barrier(4)
    outcomes: list[str] = []

    def upgrade() -> None:
        start.wait()
        try:
            outcomes.append(migrate.upgrade(url))
        except Exception as error:  # noqa: BLE001 - the assertion shows the error
            outcomes.append(repr(error))

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("content", [b"", b"not a database at all " * 100])
def test_unusable_database_is_named_in_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.db"
    path.write_bytes(content)
    if not content:
        path.unlink()
        path.mkdir()
    with pytest.raises(ConfigurationError, match=r"some\.db cannot be used"):
        migrate.upgrade(f"sqlite:///{path}")


def test_connection_error_hides_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        migrate.upgrade("postgresql+psycopg://user:hush@127.0.0.1:1/none")
    assert "hush" not in caught.value.detail
    assert "user:***@127.0.0.1:1/none cannot be used" in caught.value.detail
