"""Definitions, revisions, and the schedule of a definition."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import InvalidCursor
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.store import audit, jobs
from jobworker.store.database.database import Database
from jobworker.store.tables.schedules import job_schedules
from tests.conformance.factories import NOW

LATER = NOW + dt.timedelta(hours=1)
EVERY_MINUTE = {"kind": "interval", "every": 60}
SEND = JobDefinition("send", "tasks.mail.send", defaults={"to": "a"}, tags=("mail",))


def _put_schedule(database: Database, job: str = "send") -> Any:
    with database.read() as connection:
        table = job_schedules
        return connection.execute(sa.select(table).where(table.c.job == job)).one_or_none()


def test_definition_is_read_back(database: Database) -> None:
    with database.write() as connection:
        put = jobs.upsert(connection, SEND, JobOwner.API, "ann", NOW)
    with database.read() as connection:
        assert jobs.get(connection, "send") == put
        assert jobs.get(connection, "other") is None
        assert jobs.list_nearby_names(connection, "sent") == ["send"]
    assert (put.revision, put.owner, put.definition, put.created_at) == (1, JobOwner.API, SEND, NOW)


def test_definition_change_creates_a_readable_revision(database: Database) -> None:
    changed = replace(SEND, queue="critical")
    with database.write() as connection:
        jobs.upsert(connection, SEND, JobOwner.API, "ann", NOW)
        second = jobs.upsert(connection, changed, JobOwner.API, "bob", LATER)
        assert (second.revision, second.created_at, second.updated_at) == (2, NOW, LATER)
        assert jobs.get_definition(connection, "send", 1) == SEND
        assert jobs.get_definition(connection, "send", 2) == changed
        assert jobs.get_definition(connection, "send", 3) is None


def test_upsert_of_same_definition_changes_nothing(database: Database) -> None:
    with database.write() as connection:
        first = jobs.upsert(connection, SEND, JobOwner.API, "ann", NOW)
        assert jobs.upsert(connection, SEND, JobOwner.API, "bob", LATER) == first
        assert len(audit.list_by_subject(connection, "send")) == 1


def test_owner_change_creates_a_revision(database: Database) -> None:
    with database.write() as connection:
        jobs.upsert(connection, SEND, JobOwner.API, "ann", NOW)
        assert jobs.upsert(connection, SEND, JobOwner.CODE, "relay", LATER).revision == 2


def test_revisions_outlive_their_job_and_are_not_reused(database: Database) -> None:
    with database.write() as connection:
        jobs.upsert(connection, SEND, JobOwner.API, "ann", NOW)
        assert jobs.delete(connection, "send", "ann", NOW)
        assert jobs.get(connection, "send") is None
        assert jobs.get_definition(connection, "send", 1) == SEND
        assert jobs.upsert(connection, SEND, JobOwner.API, "ann", LATER).revision == 2
        assert not jobs.delete(connection, "other", "ann", NOW)


def test_definition_changes_are_recorded_in_audit(database: Database) -> None:
    changed = replace(SEND, queue="critical")
    with database.write() as connection:
        jobs.upsert(connection, SEND, JobOwner.API, "ann", NOW)
        jobs.upsert(connection, changed, JobOwner.API, "bob", LATER)
        jobs.delete(connection, "send", "cat", LATER)
        entries = audit.list_by_subject(connection, "send")
    assert [(entry.actor, entry.action) for entry in entries] == [
        ("ann", "job.create"),
        ("bob", "job.change"),
        ("cat", "job.delete"),
    ]
    assert entries[0].before is None
    assert entries[1].before == SEND.to_json()
    assert entries[1].after == changed.to_json()
    assert entries[2].after is None


def test_schedule_is_created_and_deleted_with_its_definition(database: Database) -> None:
    with database.write() as connection:
        jobs.upsert(connection, replace(SEND, schedule=EVERY_MINUTE), JobOwner.API, "ann", NOW)
    first = _put_schedule(database)
    assert first.spec["rule"]["every"] == 60
    assert first.enabled is True
    with database.write() as connection:
        jobs.upsert(connection, SEND, JobOwner.API, "ann", LATER)
    assert _put_schedule(database) is None


def test_schedule_keeps_its_id_and_updates_changed_at_with_its_rule(database: Database) -> None:
    scheduled = replace(SEND, schedule=EVERY_MINUTE)
    with database.write() as connection:
        jobs.upsert(connection, scheduled, JobOwner.API, "ann", NOW)
    first = _put_schedule(database)
    with database.write() as connection:
        jobs.upsert(connection, replace(scheduled, queue="critical"), JobOwner.API, "ann", LATER)
    assert _put_schedule(database) == first
    with database.write() as connection:
        jobs.upsert(connection, replace(scheduled, enabled=False), JobOwner.API, "ann", LATER)
    # The schedule stays due: its occurrences leave rows with the reason why no execution was created.
    assert _put_schedule(database) == first
    with database.write() as connection:
        jobs.upsert(
            connection, replace(scheduled, schedule={"kind": "interval", "every": 61}), JobOwner.API, "ann", LATER
        )
    changed = _put_schedule(database)
    assert (changed.id, changed.changed_at) == (first.id, LATER)


def test_delete_job_deletes_its_schedule(database: Database) -> None:
    with database.write() as connection:
        jobs.upsert(connection, replace(SEND, schedule=EVERY_MINUTE), JobOwner.API, "ann", NOW)
        jobs.delete(connection, "send", "ann", LATER)
    assert _put_schedule(database) is None


def test_pages_list_all_jobs_by_name(database: Database) -> None:
    names = [f"job-{number:02}" for number in range(7)]
    with database.write() as connection:
        for name in reversed(names):
            jobs.upsert(connection, replace(SEND, name=name), JobOwner.API, "ann", NOW)
    listed_names: list[str] = []
    cursor = None
    with database.read() as connection:
        while True:
            page = jobs.list_page(connection, 3, cursor)
            listed_names += [row.definition.name for row in page.items]
            cursor = page.next
            if cursor is None:
                break
        with pytest.raises(InvalidCursor):
            jobs.list_page(connection, 3, "bm9uc2Vuc2U")
    assert listed_names == names


def test_get_many_returns_known_jobs(database: Database) -> None:
    with database.write() as connection:
        jobs.upsert(connection, SEND, JobOwner.API, "ann", NOW)
        assert set(jobs.get_many(connection, ["send", "other"])) == {"send"}
