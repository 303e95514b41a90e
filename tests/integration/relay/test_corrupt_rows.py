"""Columns with unexpected values: the row is reported and skipped, and all others are processed."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from jobworker import every, schedule
from jobworker.declare.declarations import collect_declarations
from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import policies
from jobworker.domain.submissions.submission import Submission
from jobworker.services.schedules import sync
from jobworker.store import queues, relay_state
from jobworker.store.queues import QueueRow
from jobworker.store.tables import core
from jobworker.store.tables.dependencies import batches, dependencies, job_triggers
from jobworker.store.tables.schedules import job_schedules
from jobworker.transport import keys
from tests.conformance.execution_driver import ExecutionDriver
from tests.integration.relay.conftest import SEND, DispatchDriver, create_relay
from tests.integration.relay.test_unexpected_content import announce_worker

#: Texts that are not JSON, and JSON of every other type than the expected one.
TEXTS = ("", "garbage", "{", "[" * 1000, "null", "1", '"text"', "[]", "[1]", '["x"]', "{}", '{"a": 1}')


_TRIGGERS = sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table")


class CorruptRowDriver:
    """Relay with a worker that is always alive, and rows with invalid columns."""

    def __init__(self, driver: DispatchDriver, redis_url: str) -> None:
        self.driver = driver
        self.executions = ExecutionDriver(driver.database)
        driver.put_job(SEND)
        driver.resign_leadership()
        self.relay = create_relay(driver, redis_url)
        self.relay.run_turn()

    def corrupt_column(self, table: sa.Table, column: str, text: Any, **where: Any) -> None:
        """Write a value to a column, as no code of this project does."""
        condition = " AND ".join(f"{name} = :{name}" for name in where)
        with self.driver.database.write() as connection:
            for trigger in connection.scalars(_TRIGGERS, {"table": table.name}).all():
                # Triggers protect history tables against changes.
                connection.execute(sa.text(f"DROP TRIGGER {trigger}"))
            statement = sa.text(f"UPDATE {table.name} SET {column} = :text WHERE {condition}")
            assert connection.execute(statement, {"text": text, **where}).rowcount

    def publish_event(self, execution: str, kind: EventKind = EventKind.SUCCEEDED, **data: Any) -> None:
        """Publish a report of a worker."""
        self.driver.client.xadd(keys.EVENTS, events.encode(kind, execution, 1, data))  # type: ignore[arg-type]

    def run_turns(self, count: int = 3) -> None:
        """Run turns of the relay. Errors within a turn must not be raised."""
        for _ in range(count):
            announce_worker(self.driver.client, "default")
            self.driver.client.xadd(keys.WAKE, {"ring": "1"}, maxlen=1)  # Redis ends a wait late, by tens of ms each.
            self.relay.run_turn()
            self.driver.clock.advance(1)

    def read_problems(self) -> str:
        """Return the problems that `/readyz` reports."""
        with self.driver.database.read() as connection:
            return str(relay_state.get_problems(connection))


@pytest.fixture
def running(sqlite_driver: DispatchDriver, redis_url: str) -> Iterator[CorruptRowDriver]:
    with capture_logs():
        yield CorruptRowDriver(sqlite_driver, redis_url)


def list_json_columns(table: sa.Table) -> list[str]:
    return [column.name for column in table.columns if type(column.type).__name__ == "Json"]


@pytest.mark.parametrize("column", list_json_columns(core.executions))
def test_unreadable_execution_column_blocks_no_other_execution(running: CorruptRowDriver, column: str) -> None:
    spoilt = [running.driver.submit() for _ in TEXTS]
    for execution, text in zip(spoilt, TEXTS, strict=True):
        running.corrupt_column(core.executions, column, text, id=execution)
    good = running.driver.submit()
    running.run_turns()
    assert good in running.driver.list_published()
    for execution in (*spoilt, good):
        running.publish_event(execution, EventKind.RUNNING, worker="w1", token="1")
        running.publish_event(execution, EventKind.PROGRESS, done=1)
        running.publish_event(execution, EventKind.SUCCEEDED, worker="w1", token="1", result=1, metadata={"a": 1})
    running.run_turns()
    assert running.driver.get_execution(good).state is ExecutionState.SUCCEEDED
    if column in ("parameters", "overrides", "call"):
        assert "cannot be dispatched" in running.read_problems()


def test_undispatchable_execution_fails_and_releases_its_limit_key(running: CorruptRowDriver) -> None:
    limits, _ = policies.normalize({"concurrency": {"limit": 1}})
    limited = replace(SEND, policies=limits)
    spoilt, good = running.driver.submit_many(limited, 2)
    running.corrupt_column(core.executions, "parameters", "[1]", id=spoilt)
    running.run_turns(6)
    row = running.driver.get_execution(spoilt)
    assert (row.state, row.error) == (
        ExecutionState.FAILED,
        {
            "type": "MessageRejected",
            "message": "it cannot be dispatched: in its row in the database parameters is not an object",
            "traceback": None,
        },
    )
    assert good in running.driver.list_published()


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (core.job_definitions, "definition"),
        (core.job_revisions, "definition"),
        (core.tasks, "parameters"),
        (core.tasks, "options"),
        (core.workers, "queues"),
        (core.workers, "tasks"),
    ],
    ids=lambda argument: getattr(argument, "name", argument),
)
def test_unreadable_definition_or_worker_blocks_no_other_execution(
    running: CorruptRowDriver, table: sa.Table, column: str
) -> None:
    key = {"tasks": "name", "workers": "id", "job_revisions": "job"}.get(table.name, "name")
    value = {"tasks": "tasks.any", "workers": "w8"}.get(table.name, "load")
    running.run_turns(6)
    for text in TEXTS:
        running.corrupt_column(table, column, text, **{key: value})
        good = running.driver.submit()
        running.run_turns(1)
        assert good in running.driver.list_published(), text
        running.publish_event(good, EventKind.SUCCEEDED, worker="w1", token="1", result=1)
        running.run_turns(1)
        assert running.driver.get_execution(good).state is ExecutionState.SUCCEEDED, text


@pytest.mark.parametrize("limited", [False, True])
def test_executions_of_an_unreadable_revision_occupy_no_slots(running: CorruptRowDriver, limited: bool) -> None:
    """The unreadable executions are more than a round selects, and wait until the revision is readable."""
    driver = running.driver
    limits, _ = policies.normalize({"concurrency": {"limit": 1}} if limited else {})
    running.relay._dispatcher._selector.feed = 5
    spoilt = driver.submit_many(replace(SEND, name="resend", policies=limits), 20)
    key = {"job": "resend", "revision": 1}
    with driver.database.read() as connection:
        before = connection.execute(sa.text("SELECT definition FROM job_revisions WHERE job = 'resend'")).scalar_one()
    running.corrupt_column(core.job_revisions, "definition", "[1]", **key)
    driver.clock.advance(1)
    [good] = driver.submit_many(replace(SEND, name="resend", time_limit=60, policies=limits), 1, job_revision=2)
    running.run_turns(4)
    assert driver.list_published() == {good}
    assert "revision 1 of job resend" in running.read_problems()
    running.publish_event(good, EventKind.SUCCEEDED, worker="w1", token="1", result=1)
    running.corrupt_column(core.job_revisions, "definition", before, **key)
    driver.clock.advance(30)
    running.run_turns(2)
    assert spoilt[0] in driver.list_published()


@pytest.mark.parametrize(("table", "column"), [(batches, "on_complete"), (job_triggers, "parameters")])
def test_unreadable_follow_up_does_not_block_the_end(running: CorruptRowDriver, table: sa.Table, column: str) -> None:
    execution_driver = running.executions
    execution_driver.define_job("report", policies={"trigger_after": [{"job": "load", "on": "any"}]})
    for text in TEXTS:
        batch, [first] = execution_driver.submit_batch(Submission(job="load"))
        if table is batches:
            running.corrupt_column(table, column, text, id=batch)
        else:
            running.corrupt_column(table, column, text, job="report")
        running.publish_event(first, EventKind.SUCCEEDED, worker="w1", token="1", result=1)
        running.run_turns(1)
        assert execution_driver.get(first).state is ExecutionState.SUCCEEDED, text


#: Values that SQLite stores in a column of any type, and that are invalid in every column.
GARBAGE_VALUES: tuple[Any, ...] = ("garbage", b"\xff\xfe", 10**17)


def list_plain_columns(table: sa.Table) -> list[str]:
    return [
        column.name
        for column in table.columns
        if not column.primary_key and column.name not in list_json_columns(table)
    ]


def create_row_of_each(running: CorruptRowDriver) -> None:
    """Create rows that other work depends on."""
    execution_driver, now = running.executions, running.driver.clock.now()
    execution_driver.define_job("report", policies={"trigger_after": [{"job": "extract", "on": "any"}]})
    _, [first] = execution_driver.submit_batch(Submission(job="extract"))
    execution_driver.submit("strict", parameters={"rows": 1}, depends_on=(first,))
    with running.driver.database.write() as connection:
        queues.create(connection, "slow", "ann", now)
        queues.update_pause(connection, QueueRow("slow", now, "ann", "why"))
        connection.execute(core.rate_buckets.insert().values(key="r", full_at=now))
        connection.execute(core.unique_keys.insert().values(key="u", execution_id=first, taken_at=now))
        values = {"execution_id": first, "attempt": 1, "state": ExecutionState.RUNNING.value, "started_at": now}
        connection.execute(core.attempts.insert().values(values))
    with collect_declarations() as declared:
        schedule("hourly", job="load", rule=every(5))
    sync.apply_declarations(running.driver.database, running.driver.clock, declared, "code:v1")


@pytest.mark.parametrize(
    "table",
    [
        core.workers,
        core.queues,
        core.tasks,
        core.job_definitions,
        job_triggers,
        batches,
        dependencies,
        core.attempts,
        job_schedules,
        core.rate_buckets,
        core.unique_keys,
    ],
    ids=str,
)
def test_column_of_another_type_blocks_no_other_work(running: CorruptRowDriver, table: sa.Table) -> None:
    create_row_of_each(running)
    running.run_turns(6)
    database, keys_ = running.driver.database, [column.name for column in table.primary_key]
    with database.read() as connection:
        before = dict(connection.execute(sa.text(f"SELECT * FROM {table.name} LIMIT 1")).one()._mapping)
    key = {name: before[name] for name in keys_}
    for column in list_plain_columns(table):
        for value in GARBAGE_VALUES:
            running.corrupt_column(table, column, value, **key)
            good = running.driver.submit()
            running.run_turns(1)
            assert good in running.driver.list_published(), (column, value)
            running.publish_event(good, EventKind.SUCCEEDED, worker="w1", token="1", result=1)
            running.run_turns(1)
            assert running.driver.get_execution(good).state is ExecutionState.SUCCEEDED, (column, value)
            with contextlib.suppress(AssertionError):
                running.corrupt_column(table, column, before[column], **key)


def test_execution_column_of_another_type_blocks_no_other_execution(running: CorruptRowDriver) -> None:
    running.run_turns(6)
    limits, _ = policies.normalize({"concurrency": {"limit": 100}, "rate_limit": {"limit": 1000, "per": 1}})
    limited = replace(SEND, policies=limits)
    for column in list_plain_columns(core.executions):
        spoilt = [
            *running.driver.submit_many(SEND, len(GARBAGE_VALUES)),
            *running.driver.submit_many(limited, len(GARBAGE_VALUES)),
        ]
        for execution, value in zip(spoilt, GARBAGE_VALUES * 2, strict=True):
            running.corrupt_column(core.executions, column, value, id=execution)
        good = [running.driver.submit(), *running.driver.submit_many(limited, 1)]
        running.run_turns(6)  # The executions that come first under their limits fail one after the other.
        assert running.driver.list_published().issuperset(good), column
        for execution in (*spoilt, *good):
            running.publish_event(execution, EventKind.RUNNING, worker="w1", token="1")
            running.publish_event(execution, EventKind.PROGRESS, done=1)
            running.publish_event(execution, EventKind.SUCCEEDED, worker="w1", token="1", result=1)
        running.run_turns(2)
        assert {running.driver.get_execution(good_execution).state for good_execution in good} == {
            ExecutionState.SUCCEEDED
        }, column


@pytest.mark.parametrize("column", ["limit_key", "priority", "attempt"])
def test_unsortable_execution_fails_and_releases_its_limits(running: CorruptRowDriver, column: str) -> None:
    limits, _ = policies.normalize({"concurrency": {"limit": 1}})
    limited = replace(SEND, policies=limits)
    spoilt, good = running.driver.submit_many(limited, 2)
    running.corrupt_column(core.executions, column, b"\xff\xfe", id=spoilt)
    running.run_turns(6)
    with running.driver.database.read() as connection:
        query = sa.select(core.executions.c.state).where(core.executions.c.id == spoilt)
        assert connection.scalar(query) == ExecutionState.FAILED
    assert good in running.driver.list_published()
    assert f"{column} has the wrong type" in running.read_problems()


@pytest.mark.parametrize("column", [name for name in list_plain_columns(core.relay_state) if name != "leader"])
def test_relay_starts_with_a_corrupt_relay_state_row(running: CorruptRowDriver, column: str, redis_url: str) -> None:
    for value in GARBAGE_VALUES:
        running.corrupt_column(core.relay_state, "leader", None, id=1)
        running.corrupt_column(core.relay_state, column, value, id=1)
        running.relay = create_relay(running.driver, redis_url)
        good = running.driver.submit()
        running.run_turns(2)
        assert good in running.driver.list_published(), value
        running.publish_event(good, EventKind.SUCCEEDED, worker="w1", token="1", result=1)
        running.run_turns(1)
        assert running.driver.get_execution(good).state is ExecutionState.SUCCEEDED, value
