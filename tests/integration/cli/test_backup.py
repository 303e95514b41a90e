"""`jobworker backup`: a valid copy that is made while other processes write."""

import contextlib
import sqlite3
import stat
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.store import backup, migrate, queues
from jobworker.store.database.database import Database
from jobworker.store.tables import core
from tests.conftest import NOW
from tests.integration.cli.conftest import CommandRunner


def test_backup_is_complete_and_does_not_block_writers(
    run: CommandRunner, sqlite_database: Database, tmp_path: Path
) -> None:
    for number in range(10):
        with sqlite_database.write() as connection:
            rows = [
                {"name": f"{number}-{job_number}", "created_at": NOW, "pause_note": "x" * 250}
                for job_number in range(2_000)
            ]
            connection.execute(sa.insert(core.queues), rows)
    clock, over, waits = SystemClock(), threading.Event(), [0.0]

    def write() -> None:
        while not over.is_set():
            began = clock.monotonic()
            sqlite_database.commit(lambda connection: queues.upsert_many(connection, [f"busy-{len(waits)}"], NOW))
            sqlite_database.checkpoint(above=0)
            waits.append(clock.monotonic() - began)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = run("backup", str(tmp_path / "copy.db"))
    finally:
        over.set()
        writer.join()

    assert (done.exit_code, done.stderr) == (0, "")
    assert "checked" in done.stdout
    assert max(waits) < 4.0
    copy = tmp_path / "copy.db"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob("*copy*")) == ["copy.db"]
    assert list(tmp_path.glob(".jobworker-backup-*")) == []
    with contextlib.closing(sqlite3.connect(copy)) as restored:
        assert restored.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert restored.execute("SELECT count(*) FROM queues").fetchone()[0] >= 20_000
    database = Database(f"sqlite:///{copy}")
    migrate.check_revision(database)
    database.dispose()


def test_backup_does_not_overwrite_an_existing_file(run: CommandRunner, tmp_path: Path) -> None:
    precious = tmp_path / "copy.db"
    precious.write_text("precious")
    done = run("backup", str(precious))
    assert (done.exit_code, precious.read_text()) == (2, "precious")
    assert "exists and is left as it is" in done.stderr


def test_backup_into_missing_folder_names_the_folder(run: CommandRunner, tmp_path: Path) -> None:
    done = run("backup", str(tmp_path / "none" / "copy.db"))
    assert done.exit_code == 2
    assert "no backup was made" in done.stderr
    assert "No such file or directory" in done.stderr


def test_backup_of_damaged_database_leaves_no_file(
    run: CommandRunner, sqlite_url: str, sqlite_database: Database, tmp_path: Path
) -> None:
    sqlite_database.checkpoint(above=0)
    with Path(sqlite_url.removeprefix("sqlite:///")).open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\x0d" + b"\xff" * 4000)
    done = run("backup", str(tmp_path / "copy.db"))
    assert done.exit_code == 2
    assert "damaged" in done.stderr
    assert not (tmp_path / "copy.db").exists()


def test_backup_stops_before_the_log_fills_the_disk(
    run: CommandRunner, sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_MAX_LOG_BYTES", 0)
    sqlite_database.commit(lambda connection: queues.upsert_many(connection, ["some"], NOW))
    done = run("backup", str(tmp_path / "copy.db"))
    assert done.exit_code == 2
    assert "write-ahead log grew" in done.stderr
    assert not (tmp_path / "copy.db").exists()


def test_backup_of_postgresql_names_pg_dump_command(run: CommandRunner, tmp_path: Path) -> None:
    url = "postgresql://ann:secret@db.example:5433/jobs?sslmode=require&password=secret"
    done = run("backup", "copy.dump", JOBWORKER_DATABASE_URL=url)
    assert done.exit_code == 2
    command = "pg_dump --format=custom --file=copy.dump 'postgresql://ann@db.example:5433/jobs?sslmode=require'"
    assert command in done.stderr
    assert "secret" not in done.stderr
