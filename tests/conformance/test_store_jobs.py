"""Definitions, revisions and the schedule that a definition carries."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import InvalidCursor
from jobworker.domain.job import Definition, Owner
from jobworker.store import audit, jobs, schema
from jobworker.store.database import Database
from tests.conformance.worlds import NOW

LATER = NOW + dt.timedelta(hours=1)
EVERY_MINUTE = {"kind": "interval", "every": 60}
SEND = Definition("send", "tasks.mail.send", defaults={"to": "a"}, tags=("mail",))


def _schedule(database: Database, job: str = "send") -> Any:
    with database.read() as connection:
        table = schema.job_schedules
        return connection.execute(sa.select(table).where(table.c.job == job)).one_or_none()


def test_what_was_put_is_read_back(database: Database) -> None:
    with database.write() as connection:
        put = jobs.put(connection, SEND, Owner.API, "ann", NOW)
    with database.read() as connection:
        assert jobs.get(connection, "send") == put
        assert jobs.get(connection, "other") is None
        assert jobs.names_around(connection, "sent") == ["send"]
    assert (put.revision, put.owner, put.definition, put.created_at) == (1, Owner.API, SEND, NOW)


def test_each_change_makes_a_revision_that_stays_readable(database: Database) -> None:
    changed = replace(SEND, queue="critical")
    with database.write() as connection:
        jobs.put(connection, SEND, Owner.API, "ann", NOW)
        second = jobs.put(connection, changed, Owner.API, "bob", LATER)
        assert (second.revision, second.created_at, second.updated_at) == (2, NOW, LATER)
        assert jobs.revision(connection, "send", 1) == SEND
        assert jobs.revision(connection, "send", 2) == changed
        assert jobs.revision(connection, "send", 3) is None


def test_putting_the_same_again_changes_nothing(database: Database) -> None:
    with database.write() as connection:
        first = jobs.put(connection, SEND, Owner.API, "ann", NOW)
        assert jobs.put(connection, SEND, Owner.API, "bob", LATER) == first
        assert len(audit.of(connection, "send")) == 1


def test_another_owner_is_a_change(database: Database) -> None:
    with database.write() as connection:
        jobs.put(connection, SEND, Owner.API, "ann", NOW)
        assert jobs.put(connection, SEND, Owner.CODE, "relay", LATER).revision == 2


def test_revisions_outlive_the_job_and_are_not_used_again(database: Database) -> None:
    with database.write() as connection:
        jobs.put(connection, SEND, Owner.API, "ann", NOW)
        assert jobs.delete(connection, "send", "ann", NOW)
        assert jobs.get(connection, "send") is None
        assert jobs.revision(connection, "send", 1) == SEND
        assert jobs.put(connection, SEND, Owner.API, "ann", LATER).revision == 2
        assert not jobs.delete(connection, "other", "ann", NOW)


def test_every_change_is_in_the_audit(database: Database) -> None:
    changed = replace(SEND, queue="critical")
    with database.write() as connection:
        jobs.put(connection, SEND, Owner.API, "ann", NOW)
        jobs.put(connection, changed, Owner.API, "bob", LATER)
        jobs.delete(connection, "send", "cat", LATER)
        entries = audit.of(connection, "send")
    assert [(entry.actor, entry.action) for entry in entries] == [
        ("ann", "job.create"),
        ("bob", "job.change"),
        ("cat", "job.delete"),
    ]
    assert entries[0].before is None
    assert entries[1].before == SEND.to_json()
    assert entries[1].after == changed.to_json()
    assert entries[2].after is None


def test_a_schedule_comes_and_goes_with_its_definition(database: Database) -> None:
    with database.write() as connection:
        jobs.put(connection, replace(SEND, schedule=EVERY_MINUTE), Owner.API, "ann", NOW)
    first = _schedule(database)
    assert first.spec["rule"]["every"] == 60
    assert first.enabled is True
    with database.write() as connection:
        jobs.put(connection, SEND, Owner.API, "ann", LATER)
    assert _schedule(database) is None


def test_a_schedule_keeps_its_id_and_says_when_its_rule_changed(database: Database) -> None:
    scheduled = replace(SEND, schedule=EVERY_MINUTE)
    with database.write() as connection:
        jobs.put(connection, scheduled, Owner.API, "ann", NOW)
    first = _schedule(database)
    with database.write() as connection:
        jobs.put(connection, replace(scheduled, queue="critical"), Owner.API, "ann", LATER)
    assert _schedule(database) == first
    with database.write() as connection:
        jobs.put(connection, replace(scheduled, enabled=False), Owner.API, "ann", LATER)
    # It goes on being due: its occurrences leave rows that say why nothing ran.
    assert _schedule(database) == first
    with database.write() as connection:
        jobs.put(connection, replace(scheduled, schedule={"kind": "interval", "every": 61}), Owner.API, "ann", LATER)
    changed = _schedule(database)
    assert (changed.id, changed.changed_at) == (first.id, LATER)


def test_deleting_a_job_deletes_its_schedule(database: Database) -> None:
    with database.write() as connection:
        jobs.put(connection, replace(SEND, schedule=EVERY_MINUTE), Owner.API, "ann", NOW)
        jobs.delete(connection, "send", "ann", LATER)
    assert _schedule(database) is None


def test_pages_walk_through_all_jobs_by_name(database: Database) -> None:
    names = [f"job-{number:02}" for number in range(7)]
    with database.write() as connection:
        for name in reversed(names):
            jobs.put(connection, replace(SEND, name=name), Owner.API, "ann", NOW)
    found: list[str] = []
    cursor = None
    with database.read() as connection:
        while True:
            page = jobs.page(connection, 3, cursor)
            found += [row.definition.name for row in page.items]
            cursor = page.next
            if cursor is None:
                break
        with pytest.raises(InvalidCursor):
            jobs.page(connection, 3, "bm9uc2Vuc2U")
    assert found == names


def test_several_are_found_at_once(database: Database) -> None:
    with database.write() as connection:
        jobs.put(connection, SEND, Owner.API, "ann", NOW)
        assert set(jobs.some(connection, ["send", "other"])) == {"send"}
