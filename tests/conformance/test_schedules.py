"""The store's schedules and the ledger of occurrences, on both databases."""

import datetime as dt

import pytest

from jobworker.domain.job import Definition, Owner
from jobworker.store import jobs, schedules
from jobworker.store.database import Database
from tests.conftest import NOW

HOUR = dt.timedelta(hours=1)
RULE = {"kind": "cron", "expression": "0 3 * * *", "zone": "Europe/Berlin"}


def put(database: Database, name: str, now: dt.datetime = NOW, **fields: object) -> None:
    values = {"schedule": RULE, "defaults": {"x": 1}, **fields}
    with database.write() as connection:
        jobs.put(connection, Definition(name, task="t", **values), Owner.API, "me", now)  # type: ignore[arg-type]


def record(database: Database, schedule_id: str, at: dt.datetime, outcome: str = "fired") -> bool:
    with database.write() as connection:
        return schedules.record(connection, schedule_id, at, outcome, None, NOW)


def test_a_schedule_comes_with_the_job_as_it_stands(database: Database) -> None:
    put(database, "nightly")
    put(database, "nightly", description="changed")
    put(database, "unscheduled", schedule=None)
    with database.read() as connection:
        (row,) = schedules.all(connection)
        assert schedules.get(connection, row.id) == row
        assert schedules.get(connection, "nobody") is None
    assert (row.job, row.rule, row.enabled) == ("nightly", RULE, True)
    assert (row.definition.description, row.definition.defaults, row.revision) == ("changed", {"x": 1}, 2)
    assert row.last_occurrence is None


def test_schedules_come_in_the_order_of_their_ids(database: Database) -> None:
    for name in ("b", "a", "c"):
        put(database, name)
    with database.read() as connection:
        found = [row.id for row in schedules.all(connection)]
    assert len(found) == 3
    assert found == sorted(found)


def test_an_occurrence_is_recorded_once(database: Database) -> None:
    put(database, "nightly")
    with database.read() as connection:
        (row,) = schedules.all(connection)
    assert record(database, row.id, NOW)
    assert not record(database, row.id, NOW, "skipped_disabled")
    assert not record(database, row.id, NOW.astimezone(dt.timezone(2 * HOUR)))
    assert record(database, row.id, NOW + dt.timedelta(microseconds=1))
    assert record(database, "another", NOW)


@pytest.mark.parametrize("changed", [NOW - HOUR, NOW + HOUR])
def test_what_is_settled_follows_the_ledger_and_the_last_change(database: Database, changed: dt.datetime) -> None:
    put(database, "nightly", now=changed)
    with database.read() as connection:
        (row,) = schedules.all(connection)
    assert row.after == changed
    for hours in (0, -3, -2):
        record(database, row.id, NOW + hours * HOUR)
    record(database, "another", NOW + 5 * HOUR)
    with database.read() as connection:
        found = schedules.get(connection, row.id)
    assert found is not None
    assert found.last_occurrence == NOW
    assert found.after == max(NOW, changed)
