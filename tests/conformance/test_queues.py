"""Queues: how they come to exist, in which of them something may run, and which of them are removed."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.declare.schedules import Declarations, Declared
from jobworker.domain.admission import Submission
from jobworker.domain.execution import FINAL, State
from jobworker.domain.job import SHIPPED_QUEUES, Definition
from jobworker.domain.job import Owner as JobOwner
from jobworker.domain.schedule import Owner, parse
from jobworker.services import catalogue, completion, schedule_sync
from jobworker.services import queues as queue_services
from jobworker.services.completion import About
from jobworker.services.queues import UNUSED_FOR
from jobworker.services.submission import submit_batch
from jobworker.store import jobs, queues, schedules, schema, tasks, workers
from jobworker.store.database import Database
from jobworker.store.queues import QueueRow, Ready
from jobworker.store.workers import WorkerRow
from tests.conformance.worlds import NOW, accepted, new, task

MINUTE = dt.timedelta(minutes=1)
OFFERED = {
    "name": "tasks.mail.send",
    "description": "Sends.",
    "parameters": [],
    "options": {"queue": "mail", "priority": 5, "on_worker_lost": "retry"},
}
SCHEDULE = {"name": "nightly", "job": "send", "rule": {"kind": "daily", "time": "02:00"}, "queue": "mail"}


def _names(database: Database) -> list[str]:
    with database.read() as connection:
        return queues.names(connection, 20_000)


def _remember(database: Database, *names: str) -> None:
    with database.write() as connection:
        queues.remember(connection, names, NOW)


def _worker(*names: str) -> WorkerRow:
    return WorkerRow("w", "host", 1, "prefork", 2, names, ("tasks.mail.send",), "v1", NOW, NOW)


def test_queues_are_remembered_once_and_only_by_names_that_may_be(database: Database) -> None:
    _remember(database, "b", "a")
    _remember(database, "a", "c", "c")
    _remember(database)
    _remember(database, "Mail", "x" * 65, "a b", "")
    assert _names(database) == ["a", "b", "c"]


def test_what_live_workers_consume_and_code_declares_exists(database: Database, clock: ManualClock) -> None:
    with database.write() as connection:
        workers.seen(connection, [_worker("default", "consumed", "Not-Ours" * 20)], NOW)
    catalogue.learn(database, clock, [OFFERED], "v1")
    with database.write() as connection:
        jobs.put(connection, Definition("send", "tasks.mail.send"), JobOwner.API, "ann", NOW)
    named = parse({**SCHEDULE, "queue": "reports"})
    declared = Declarations(schedules={"nightly": Declared(named, "schedules/x.py:1")}, calendars={})
    [change] = schedule_sync.apply(database, clock, declared, "sync")
    assert change.reason is None
    assert _names(database) == ["consumed", "default", "mail", "reports"]


def test_only_queues_in_which_something_may_run_are_ready(database: Database) -> None:
    with database.write() as connection:
        accepted(
            connection,
            new(queue="free"),
            new(queue="both"),
            new(queue="both", limit_key="k"),
            new(queue="limited", limit_key="k"),
            new(queue="later", state=State.SCHEDULED),
            new(queue="elsewhere"),
        )
    asked = ["free", "both", "limited", "later", "idle"]
    with database.read() as connection:
        assert sorted(queues.ready(connection, asked)) == [
            Ready("both", True),
            Ready("free", False),
            Ready("limited", True),
        ]
        assert queues.ready(connection, []) == []


def _definition(connection: sa.Connection) -> None:
    jobs.put(connection, Definition("send", "tasks.mail.send", queue="mail"), JobOwner.API, "ann", NOW)


def _execution(**values: Any) -> Callable[[sa.Connection], None]:
    def use(connection: sa.Connection) -> None:
        accepted(connection, new(queue="mail"))
        connection.execute(sa.update(schema.executions).values(**values))

    return use


USES: dict[str, Callable[[sa.Connection], object]] = {
    "definition": _definition,
    "schedule": lambda one: schedules.put(one, parse(SCHEDULE), Owner.API, "ann", NOW, NOW),
    "created": lambda one: queues.create(one, "mail", "ann", NOW),
    "paused": lambda one: queues.pause(one, QueueRow("mail", NOW, "ann")),
    "consumed": lambda one: workers.seen(one, [_worker("mail")], NOW),
    "ready": _execution(dispatched_at=None),
    "limited": _execution(limit_key="k"),
    "published": _execution(dispatched_at=NOW),
    **{state.value: _execution(state=state) for state in State if state not in (*FINAL, State.QUEUED)},
}


@pytest.mark.parametrize("use", USES)
def test_a_queue_stays_as_long_as_anything_uses_it(database: Database, clock: ManualClock, use: str) -> None:
    _remember(database, "mail", "unused")
    with database.write() as connection:
        USES[use](connection)
    for _ in range(3):
        queue_services.remove_unused(database, clock)
        clock.advance(UNUSED_FOR.total_seconds())
    assert _names(database) == ["mail"]
    with database.write() as connection:
        for table in (schema.executions, schema.job_definitions, schema.job_schedules):
            connection.execute(table.delete())
        connection.execute(sa.update(schema.workers).values(gone_at=NOW))
        connection.execute(sa.update(schema.queues).values(created_by=None, paused_at=None))
    for _ in range(3):
        queue_services.remove_unused(database, clock)
        clock.advance(UNUSED_FOR.total_seconds())
    assert _names(database) == []


def test_a_queue_is_removed_when_it_was_unused_for_an_hour(database: Database, clock: ManualClock) -> None:
    def rounds(count: int) -> None:
        for _ in range(count):
            queue_services.remove_unused(database, clock)
            clock.advance(600)

    _remember(database, "mail", *SHIPPED_QUEUES)
    rounds(6)
    assert "mail" in _names(database)
    # A worker comes and goes between two rounds: the hour begins anew.
    _remember(database, "mail")
    rounds(6)
    assert "mail" in _names(database)
    rounds(1)
    assert _names(database) == sorted(SHIPPED_QUEUES)


def test_a_round_is_bounded(database: Database) -> None:
    _remember(database, *(f"old-{number}" for number in range(10)))
    with database.write() as connection:
        later = NOW + MINUTE
        assert queues.remove_unused(connection, ["old-0"], NOW, NOW - MINUTE, 4) == []
        assert len(queues.remove_unused(connection, ["old-0"], later, later, 4)) == 4
        assert len(queues.remove_unused(connection, ["old-0"], later, later, 4)) == 4
        assert len(queues.remove_unused(connection, ["old-0"], later, later, 4)) == 1
    assert _names(database) == ["old-0"]


def test_an_accepted_batch_completes_in_a_queue_that_is_gone(database: Database, clock: ManualClock) -> None:
    with database.write() as connection:
        tasks.put(connection, task())
        jobs.put(connection, Definition("send", "tasks.mail.send"), JobOwner.API, "ann", NOW)
        queues.create(connection, "mail", "ann", NOW)
    about = About(on_complete=Submission(job="send", queue="mail"))
    batch = submit_batch(database, clock, [Submission(job="send")], "ann", about=about)
    queue_services.remove(database, clock, "mail", "ann")
    with database.write() as connection:
        connection.execute(sa.update(schema.executions).values(state="Succeeded"))
        assert completion.complete(connection, [batch.batch_id or ""], NOW) == 1
        assert [each.name for each in queues.ready(connection, ["mail"])] == ["mail"]
