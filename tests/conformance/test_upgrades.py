"""Upgrades of databases that contain rows, from each released revision."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.domain.jobs.definition import BUILTIN_QUEUES
from jobworker.domain.schedules.schedule import ScheduleOwner, ScheduleState, parse
from jobworker.services import queues
from jobworker.services.schedules import evaluator
from jobworker.store import migrate
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from jobworker.store.tables import core
from jobworker.store.tables.schedules import occurrences, schedule_revisions

DAY = dt.timedelta(days=1)
CHANGED_AT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
FIRED_AT = CHANGED_AT + dt.timedelta(hours=15)

CRON = {"kind": "cron", "expression": "0 3 * * *", "zone": "Europe/Berlin"}
INTERVAL = {"kind": "interval", "every": 86400, "anchor": "2026-01-01T03:00:00+00:00"}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'old.db'}"
        return
    server = request.getfixturevalue("postgres")
    server.create_database("older")
    yield server.get_url("older")
    server.drop_database("older")


@pytest.fixture
def database_before_schedules(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Database at revision 0002 with two rules of definitions and occurrence rows."""
    with monkeypatch.context() as patched:
        steps = migrate._steps_to_head
        patched.setattr(migrate, "_steps_to_head", lambda *arguments: steps(*arguments)[:2])
        migrate.upgrade(empty_url)
    database = Database(empty_url)
    with database.write() as connection:
        for name, rule, enabled in (("nightly", CRON, True), ("stopped", INTERVAL, False)):
            _insert_0002(connection, name, rule, enabled)
        connection.execute(
            sa.insert(occurrences).values(
                schedule_id="id-nightly",
                scheduled_for=FIRED_AT,
                outcome="fired",
                execution_id="e",
                recorded_at=FIRED_AT,
            )
        )
    yield database
    database.dispose()


def _insert_0002(connection: sa.Connection, name: str, rule: dict[str, Any], enabled: bool) -> None:
    moment = occurrences.c.scheduled_for.type
    table = sa.table(
        "job_schedules",
        *(sa.column(column, sa.String) for column in ("id", "job")),
        sa.column("rule", core.job_definitions.c.definition.type),
        sa.column("enabled", sa.Boolean),
        *(sa.column(column, moment) for column in ("created_at", "changed_at")),
    )
    values = {"id": f"id-{name}", "job": name, "rule": rule, "enabled": enabled}
    connection.execute(table.insert().values(**values, created_at=CHANGED_AT - DAY, changed_at=CHANGED_AT))


def test_upgrade_turns_the_rule_of_a_definition_into_a_schedule(database_before_schedules: Database) -> None:
    url = database_before_schedules.url.render_as_string(hide_password=False)
    migrate.upgrade(url)
    with database_before_schedules.read() as connection:
        row = schedule_rows.get_by_name(connection, "nightly")
    assert row is not None
    assert (row.id, row.job, row.owner, row.state, row.enabled) == (
        "id-nightly",
        "nightly",
        ScheduleOwner.JOB,
        ScheduleState.ACTIVE,
        True,
    )
    # All fields are set as for a new schedule; executions may overlap, as before the upgrade.
    expected_fields = {"name": "nightly", "job": "nightly", "zone": "Europe/Berlin", "overlap": "allow"}
    assert row.spec == parse({**expected_fields, "rule": {"kind": "cron", "expression": "0 3 * * *"}}).to_json()
    assert row.settled_until == FIRED_AT
    now = FIRED_AT + DAY + dt.timedelta(hours=3)
    with database_before_schedules.write() as connection:
        evaluator.evaluate_due(connection, {row.id: now}, now)
        ledger = sa.select(occurrences.c.scheduled_for).where(occurrences.c.schedule_id == row.id)
        times = sorted(connection.scalars(ledger))
    # 03:00 in Berlin is 02:00 in UTC in winter; the recorded occurrence gets no second row.
    assert times == [FIRED_AT, dt.datetime(2026, 3, 3, 2, tzinfo=dt.UTC)]


def test_upgrade_does_not_catch_up_occurrences_of_a_disabled_job(database_before_schedules: Database) -> None:
    migrate.upgrade(database_before_schedules.url.render_as_string(hide_password=False))
    with database_before_schedules.read() as connection:
        row = schedule_rows.get_by_name(connection, "stopped")
    now = dt.datetime.now(dt.UTC)
    assert row is not None
    assert row.enabled is True
    assert dt.timedelta(0) <= now - row.settled_until < dt.timedelta(minutes=5)


def test_upgrade_creates_revisions_for_existing_schedules(database_before_schedules: Database) -> None:
    migrate.upgrade(database_before_schedules.url.render_as_string(hide_password=False))
    with database_before_schedules.read() as connection:
        revisions = connection.execute(sa.select(schedule_revisions)).all()
    assert {(row.schedule_id, row.revision, row.actor) for row in revisions} == {
        ("id-nightly", 1, "migration"),
        ("id-stopped", 1, "migration"),
    }
    assert all(json.dumps(row.spec) for row in revisions)


def test_interrupted_upgrade_leaves_database_unchanged(
    database_before_schedules: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, rows = (
        database_before_schedules.url.render_as_string(hide_password=False),
        "SELECT id, job FROM job_schedules ORDER BY id",
    )
    with database_before_schedules.read() as connection:
        before = connection.exec_driver_sql(rows).all()
    # The table has been dropped and created anew by then; the failing statement copies a row.
    with monkeypatch.context() as patched:
        patched.setattr(json, "dumps", _raise_killed)
        with pytest.raises(KeyboardInterrupt):
            migrate.upgrade(url)
    assert migrate.get_revision(url) == "0002"
    with database_before_schedules.read() as connection:
        assert connection.exec_driver_sql(rows).all() == before
    migrate.upgrade(url)
    migrate.check_revision(database_before_schedules)


def test_upgrade_interrupted_before_its_commit_leaves_database_unchanged(
    database_before_schedules: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = database_before_schedules.url.render_as_string(hide_password=False)
    before = sa.inspect(database_before_schedules._reader).get_table_names()
    with monkeypatch.context() as patched:
        steps = migrate._steps_to_head
        patched.setattr(migrate, "_steps_to_head", lambda *arguments: _kill_after(steps(*arguments)))
        with pytest.raises(KeyboardInterrupt):
            migrate.upgrade(url)
    assert migrate.get_revision(url) == "0002"
    assert sa.inspect(database_before_schedules._reader).get_table_names() == before
    migrate.upgrade(url)
    migrate.check_revision(database_before_schedules)


def _kill_after(steps: list[Any]) -> Iterator[Any]:
    yield from steps
    raise KeyboardInterrupt


def _raise_killed(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_upgrade_marks_queues_as_automatic_and_adds_named_ones(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        steps = migrate._steps_to_head
        patched.setattr(migrate, "_steps_to_head", lambda *arguments: _list_steps_before("0006", steps(*arguments)))
        migrate.upgrade(empty_url)
    database = Database(empty_url)
    with database.write() as connection:
        named = json.dumps({"name": "weekly", "queue": "reports"})
        for statement in (
            f"INSERT INTO queues (name, created_at) VALUES ('mail', '{CHANGED_AT}')",
            "INSERT INTO job_definitions (name, revision, task, owner, definition, created_at, updated_at) "
            f"VALUES ('weekly', 1, 't', 'api', '{named}', '{CHANGED_AT}', '{CHANGED_AT}')",
        ):
            connection.exec_driver_sql(statement)
    migrate.upgrade(empty_url)
    with database.read() as connection:
        rows = connection.execute(
            sa.select(*(core.queues.c[name] for name in ("name", "created_by", "unused_since")))
        ).all()
    assert sorted(tuple(row) for row in rows) == [("mail", None, None), ("reports", None, None)]
    queues.remove_unused(database, ManualClock(CHANGED_AT))
    queues.remove_unused(database, ManualClock(CHANGED_AT + queues.UNUSED_RETENTION))
    assert [queue.row.name for queue in queues.list_page(database).items if queue.row.name not in BUILTIN_QUEUES] == [
        "reports"
    ]
    database.dispose()


def _list_steps_before(revision: str, steps: list[Any]) -> list[Any]:
    """Return the steps of an upgrade before a revision."""
    names = [step.revision.revision for step in steps]
    return steps[: names.index(revision)]
