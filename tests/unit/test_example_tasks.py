"""The example jobs, called as plain functions on a database of their own."""

import csv
import io
import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis

from jobworker import Context
from jobworker.files.local import LocalFiles
from tasks import database, entities, exports, seed

ProgressReports = list[tuple[float, float | None]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOBWORKER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def progress() -> ProgressReports:
    return []


@pytest.fixture
def context(home: Path, progress: ProgressReports) -> Context:
    return Context(
        execution_id="e1",
        job="test",
        attempt=1,
        max_attempts=1,
        parameters={},
        scheduled_for=None,
        correlation_id="c1",
        worker="w1",
        log=logging.getLogger("test"),
        files=LocalFiles(home, "e1"),
        _progress=lambda done, total, message: progress.append((done, total)),
    )


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> fakeredis.FakeRedis:
    fake = fakeredis.FakeRedis(decode_responses=True)
    monkeypatch.setattr(entities, "redis_client", lambda: fake)
    return fake


def insert_entities(*rows: tuple[str, str, str, int]) -> None:
    """Replace all entities by these: user, name, status, days since last seen."""
    with database.opened() as connection, database.transaction(connection):
        connection.execute("DELETE FROM domain_entities")
        connection.executemany(
            "INSERT INTO domain_entities (user_id, name, kind, status, created_at, last_active_at) VALUES "
            "(?, ?, 'device', ?, '2020-01-01T00:00:00Z', strftime('%Y-%m-%dT%H:%M:%SZ', 'now', ?))",
            [(user, name, status, f"-{days} days") for user, name, status, days in rows],
        )


def list_names() -> list[str]:
    with database.opened() as connection:
        return [row["name"] for row in connection.execute("SELECT name FROM domain_entities ORDER BY id")]


def test_example_database_seeded_only_once() -> None:
    with database.opened() as connection:
        assert database.count(connection) == database.SMALL
        connection.execute("DELETE FROM domain_entities")
    with database.opened() as connection:
        assert database.count(connection) == 0


def _open_database(_: int) -> int:
    with database.opened() as connection:
        return database.count(connection)


def test_concurrent_first_open_seeds_database_once() -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert set(pool.map(_open_database, range(16), chunksize=1)) == {database.SMALL}


def test_seeded_last_active_at_between_creation_and_now() -> None:
    with database.opened() as connection:
        wrong = connection.execute(
            "SELECT count(*) FROM domain_entities WHERE last_active_at < created_at "
            "OR last_active_at > strftime('%Y-%m-%dT%H:%M:%SZ', 'now') OR created_at IS NULL"
        )
        assert wrong.fetchone()[0] == 0


def test_seed_replaces_entities_only_with_force(capsys: pytest.CaptureFixture[str]) -> None:
    assert seed.main(["--entities", "70"]) == 0
    assert len(list_names()) == 70
    assert seed.main(["--entities", "80"]) == 1
    assert "--force" in capsys.readouterr().err
    assert len(list_names()) == 70
    assert seed.main(["--entities", "80", "--force"]) == 0
    assert len(list_names()) == 80
    with pytest.raises(SystemExit):
        seed.main(["--entities", "0"])


def test_cleanup_deletes_old_inactive_entities(context: Context, progress: ProgressReports) -> None:
    insert_entities(
        *[("u", f"old {number}", "inactive", 91) for number in range(25)],
        ("u", "archived", "archived", 400),
        ("u", "recent", "inactive", 89),
        ("u", "active", "active", 400),
    )
    result = entities.cleanup_inactive_entities(context, batch_size=10)
    assert result == {"found": 26, "deleted": 26, "remaining": 2, "dry_run": False}
    assert list_names() == ["recent", "active"]
    assert progress == [(0, 26), (10, 26), (20, 26), (26, 26)]


def test_cleanup_dry_run_deletes_nothing(context: Context) -> None:
    insert_entities(("u", "old", "inactive", 91))
    result = entities.cleanup_inactive_entities(context, dry_run=True)
    assert result == {"found": 1, "deleted": 0, "remaining": 1, "dry_run": True}
    assert list_names() == ["old"]


def test_interrupted_cleanup_keeps_finished_batches(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    insert_entities(*[("u", str(number), "inactive", 91) for number in range(20)])

    def interrupt(done: float, total: float | None, message: str | None) -> None:
        if done == 10:
            raise KeyboardInterrupt

    object.__setattr__(context, "_progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        entities.cleanup_inactive_entities(context, batch_size=10)
    assert len(list_names()) == 10


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"inactive_days": -1}])
def test_cleanup_rejects_invalid_parameters(context: Context, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        entities.cleanup_inactive_entities(context, **wrong)


def test_statistics_counted_then_cached(cache: fakeredis.FakeRedis) -> None:
    insert_entities(("u", "a", "active", 1), ("u", "b", "inactive", 1), ("u", "c", "active", 1))
    counted = entities.generate_entity_statistics()
    assert counted["total"] == 3
    assert counted["by_kind"] == {"device": 3}
    assert counted["by_status"] == {"active": 2, "inactive": 1}
    assert not counted["cached"]

    insert_entities(("u", "a", "active", 1))
    assert entities.generate_entity_statistics() == {**counted, "cached": True}
    assert 0 < cache.ttl(entities.STATISTICS_KEY) <= entities.STATISTICS_TTL
    cache.delete(entities.STATISTICS_KEY)
    assert entities.generate_entity_statistics()["total"] == 1


def test_statistics_work_without_cache(cache: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise redis.ConnectionError("down")

    monkeypatch.setattr(cache, "get", fail)
    monkeypatch.setattr(cache, "set", fail)
    assert entities.generate_entity_statistics()["total"] == database.SMALL


def test_export_writes_csv_of_users_entities(context: Context, progress: ProgressReports) -> None:
    insert_entities(
        ("u-1", "Größe, «x»", "active", 1), ("u-2", "other", "active", 1), ("u-1", "second\nline", "archived", 1)
    )
    result = exports.process_data_export(context, "u-1")
    content = Path(result["file"]).read_bytes()
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [row["name"] for row in rows] == ["Größe, «x»", "second\nline"]
    assert tuple(rows[0]) == exports.COLUMNS
    assert (result["rows"], result["bytes"]) == (2, len(content))
    assert progress[-1] == (2, 2)


def test_export_writes_json(context: Context) -> None:
    insert_entities(("u-1", "=1+1", "active", 1))
    result = exports.process_data_export(context, "u-1", "json")
    (row,) = json.loads(Path(result["file"]).read_text())
    assert row["name"] == "=1+1"


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_csv_cell_with_formula_prefix_escaped(context: Context, name: str) -> None:
    insert_entities(("u-1", name, "active", 1))
    result = exports.process_data_export(context, "u-1")
    (row,) = csv.DictReader(io.StringIO(Path(result["file"]).read_bytes().decode(), newline=""))
    assert row["name"] == f"'{name}"


def test_export_reports_address_as_not_mailed(context: Context, caplog: pytest.LogCaptureFixture) -> None:
    insert_entities()
    result = exports.process_data_export(context, "nobody", email="me@example.org")
    assert (result["rows"], result["email"], result["mailed"]) == (0, "me@example.org", False)
    assert "nothing was mailed to me@example.org" in caplog.text
