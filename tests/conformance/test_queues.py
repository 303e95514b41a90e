"""Queues: their creation, their readiness and their removal."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.declare.declarations import Declaration, Declarations
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.jobs.definition import BUILTIN_QUEUES, JobDefinition, JobOwner
from jobworker.domain.schedules.schedule import ScheduleOwner, parse
from jobworker.domain.submissions.submission import Submission
from jobworker.services import queues as queue_services
from jobworker.services.jobs import task_catalog
from jobworker.services.queues import UNUSED_RETENTION
from jobworker.services.schedules import sync
from jobworker.services.submissions.submission import submit_batch
from jobworker.services.workflows import batch_completion
from jobworker.services.workflows.batch_completion import BatchOptions
from jobworker.store import jobs, queues, tasks, workers
from jobworker.store.database.database import Database
from jobworker.store.queues import QueueRow, ReadyQueue
from jobworker.store.schedules import schedule_rows
from jobworker.store.tables import core
from jobworker.store.tables.schedules import job_schedules
from jobworker.store.workers import WorkerRow
from tests.conformance.factories import NOW, insert_executions, make_execution, make_task

MINUTE = dt.timedelta(minutes=1)
ANNOUNCEMENT = {
    "name": "tasks.mail.send",
    "description": "Sends.",
    "parameters": [],
    "options": {"queue": "mail", "priority": 5, "on_worker_lost": "retry"},
}
SCHEDULE = {"name": "nightly", "job": "send", "rule": {"kind": "daily", "time": "02:00"}, "queue": "mail"}


def _list_queue_names(database: Database) -> list[str]:
    with database.read() as connection:
        return queues.list_names(connection, 20_000)


def _register_queue(database: Database, *names: str) -> None:
    with database.write() as connection:
        queues.upsert_many(connection, names, NOW)


def _make_worker(*names: str) -> WorkerRow:
    return WorkerRow("w", "host", 1, "prefork", 2, names, ("tasks.mail.send",), "v1", NOW, NOW)


def test_queue_names_are_registered_once_and_only_if_valid(database: Database) -> None:
    _register_queue(database, "b", "a")
    _register_queue(database, "a", "c", "c")
    _register_queue(database)
    _register_queue(database, "Mail", "x" * 65, "a b", "")
    assert _list_queue_names(database) == ["a", "b", "c"]


def test_queues_of_live_workers_and_declared_jobs_exist(database: Database, clock: ManualClock) -> None:
    with database.write() as connection:
        workers.update_live(connection, [_make_worker("default", "consumed", "Not-Ours" * 20)], NOW)
    task_catalog.register_tasks(database, clock, [ANNOUNCEMENT], "v1")
    with database.write() as connection:
        jobs.upsert(connection, JobDefinition("send", "tasks.mail.send"), JobOwner.API, "ann", NOW)
    named = parse({**SCHEDULE, "queue": "reports"})
    declared = Declarations(schedules={"nightly": Declaration(named, "schedules/x.py:1")}, calendars={})
    [change] = sync.apply_declarations(database, clock, declared, "sync")
    assert change.reason is None
    assert _list_queue_names(database) == ["consumed", "default", "mail", "reports"]


def test_find_ready_returns_only_queues_with_runnable_executions(database: Database) -> None:
    with database.write() as connection:
        insert_executions(
            connection,
            make_execution(queue="free"),
            make_execution(queue="both"),
            make_execution(queue="both", limit_key="k"),
            make_execution(queue="limited", limit_key="k"),
            make_execution(queue="later", state=ExecutionState.SCHEDULED),
            make_execution(queue="elsewhere"),
        )
    names = ["free", "both", "limited", "later", "idle"]
    with database.read() as connection:
        assert sorted(queues.find_ready(connection, names)) == [
            ReadyQueue("both", True),
            ReadyQueue("free", False),
            ReadyQueue("limited", True),
        ]
        assert queues.find_ready(connection, []) == []


def _insert_definition(connection: sa.Connection) -> None:
    jobs.upsert(connection, JobDefinition("send", "tasks.mail.send", queue="mail"), JobOwner.API, "ann", NOW)


def _insert_execution(**values: Any) -> Callable[[sa.Connection], None]:
    def use(connection: sa.Connection) -> None:
        insert_executions(connection, make_execution(queue="mail"))
        connection.execute(sa.update(core.executions).values(**values))

    return use


QUEUE_USES: dict[str, Callable[[sa.Connection], object]] = {
    "definition": _insert_definition,
    "schedule": lambda connection: schedule_rows.upsert(
        connection, parse(SCHEDULE), ScheduleOwner.API, "ann", NOW, NOW
    ),
    "created": lambda connection: queues.create(connection, "mail", "ann", NOW),
    "paused": lambda connection: queues.update_pause(connection, QueueRow("mail", NOW, "ann")),
    "consumed": lambda connection: workers.update_live(connection, [_make_worker("mail")], NOW),
    "ready": _insert_execution(dispatched_at=None),
    "limited": _insert_execution(limit_key="k"),
    "published": _insert_execution(dispatched_at=NOW),
    **{
        state.value: _insert_execution(state=state)
        for state in ExecutionState
        if state not in (*FINAL_STATES, ExecutionState.QUEUED)
    },
}


@pytest.mark.parametrize("use", QUEUE_USES)
def test_used_queue_is_not_removed(database: Database, clock: ManualClock, use: str) -> None:
    _register_queue(database, "mail", "unused")
    with database.write() as connection:
        QUEUE_USES[use](connection)
    for _ in range(3):
        queue_services.remove_unused(database, clock)
        clock.advance(UNUSED_RETENTION.total_seconds())
    assert _list_queue_names(database) == ["mail"]
    with database.write() as connection:
        for table in (core.executions, core.job_definitions, job_schedules):
            connection.execute(table.delete())
        connection.execute(sa.update(core.workers).values(gone_at=NOW))
        connection.execute(sa.update(core.queues).values(created_by=None, paused_at=None))
    for _ in range(3):
        queue_services.remove_unused(database, clock)
        clock.advance(UNUSED_RETENTION.total_seconds())
    assert _list_queue_names(database) == []


def test_queue_unused_for_an_hour_is_removed(database: Database, clock: ManualClock) -> None:
    def rounds(count: int) -> None:
        for _ in range(count):
            queue_services.remove_unused(database, clock)
            clock.advance(600)

    _register_queue(database, "mail", *BUILTIN_QUEUES)
    rounds(6)
    assert "mail" in _list_queue_names(database)
    # A worker that uses the queue between two rounds restarts the hour.
    _register_queue(database, "mail")
    rounds(6)
    assert "mail" in _list_queue_names(database)
    rounds(1)
    assert _list_queue_names(database) == sorted(BUILTIN_QUEUES)


def test_delete_unused_removes_a_bounded_number_of_queues(database: Database) -> None:
    _register_queue(database, *(f"old-{number}" for number in range(10)))
    with database.write() as connection:
        later = NOW + MINUTE
        assert queues.delete_unused(connection, ["old-0"], NOW, NOW - MINUTE, 4) == []
        assert len(queues.delete_unused(connection, ["old-0"], later, later, 4)) == 4
        assert len(queues.delete_unused(connection, ["old-0"], later, later, 4)) == 4
        assert len(queues.delete_unused(connection, ["old-0"], later, later, 4)) == 1
    assert _list_queue_names(database) == ["old-0"]


def test_on_complete_job_starts_in_a_removed_queue(database: Database, clock: ManualClock) -> None:
    with database.write() as connection:
        tasks.upsert(connection, make_task())
        jobs.upsert(connection, JobDefinition("send", "tasks.mail.send"), JobOwner.API, "ann", NOW)
        queues.create(connection, "mail", "ann", NOW)
    about = BatchOptions(on_complete=Submission(job="send", queue="mail"))
    batch = submit_batch(database, clock, [Submission(job="send")], "ann", options=about)
    queue_services.remove(database, clock, "mail", "ann")
    with database.write() as connection:
        connection.execute(sa.update(core.executions).values(state="Succeeded"))
        assert batch_completion.complete_batches(connection, [batch.batch_id or ""], NOW) == 1
        assert [queue.name for queue in queues.find_ready(connection, ["mail"])] == ["mail"]
