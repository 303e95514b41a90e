"""Dispatcher of a relay between a real Redis and a database, without other processes."""

import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from jobworker.clock import ManualClock
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.jobs import limits
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.relay.dispatch import Dispatcher
from jobworker.relay.event_recorder import record_events
from jobworker.relay.loop import Relay
from jobworker.relay.problems import RelayProblems
from jobworker.relay.stream_reader import EventBatch, StreamOffsets, StreamReader
from jobworker.settings import Settings
from jobworker.store import jobs, relay_state
from jobworker.store.database.database import Database
from jobworker.store.executions import dispatch, due_executions, executions
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.workers import WorkerRow
from jobworker.transport import keys
from jobworker.transport.claims import Claims
from jobworker.transport.publisher import Publisher, get_list_name
from tests.conformance.factories import insert_executions, make_execution

SEND = JobDefinition("send", "tasks.mail.send")


def make_worker(now: dt.datetime) -> WorkerRow:
    """Return a worker that can run every task."""
    return WorkerRow("w1", "host", 1, "prefork", 2, ("default",), (SEND.task,), "v1", now, now)


_MOMENT = dt.timedelta(milliseconds=1)
_DAY = dt.timedelta(days=1)


class DispatchDriver:
    """Dispatcher with its inputs and outputs."""

    def __init__(self, database: Database, client: redis.Redis, clock: ManualClock) -> None:
        self.database = database
        self.client = client
        self.clock = clock
        self._reports = 0
        self._submitted: list[str] = []
        self.dispatcher = self.create_dispatcher()

    def create_dispatcher(self, name: str = "relay", feed: int = 100) -> Dispatcher:
        """Return a dispatcher that leads from now on and knows a worker."""
        ageing = dt.timedelta(seconds=60)
        publisher, claims, problems = Publisher(self.client), Claims(self.client), RelayProblems(self.clock)
        dispatcher = Dispatcher(self.database, publisher, claims, self.clock, feed, name, ageing, problems)
        dispatcher.workers = [make_worker(self.clock.now())]
        with self.database.write() as connection:
            assert relay_state.acquire_leadership(
                connection, name, self.clock.now(), relay_state.get(connection).tenure
            )
        return dispatcher

    def resign_leadership(self) -> None:
        """Remove the leader."""
        with self.database.write() as connection:
            relay_state.release_leadership(connection, self.dispatcher.relay_name)

    def submit(self, definition: JobDefinition = SEND, **values: Any) -> str:
        """Insert a queued execution of `definition` and return its id."""
        return self.submit_many(definition, 1, **values)[0]

    def submit_many(self, definition: JobDefinition, count: int, **values: Any) -> list[str]:
        """Insert `count` executions, each a moment after the one before, and return their ids."""
        values = {"parameters": {"to": "a"}, "job": definition.name, **values}
        keys = limits.compute_keys(definition.name, definition.policies, values["parameters"])._asdict()
        rows = [make_execution(at=self.clock.now() + number * _MOMENT, **keys, **values) for number in range(count)]
        with self.database.write() as connection:
            jobs.upsert(connection, definition, JobOwner.API, "ann", self.clock.now())
            ids = insert_executions(connection, *rows, now=self.clock.now())
        self._submitted += ids
        return ids

    def put_job(self, definition: JobDefinition) -> None:
        """Create or change a definition."""
        with self.database.write() as connection:
            jobs.upsert(connection, definition, JobOwner.API, "ann", self.clock.now())

    def record_report(self, kind: EventKind, execution: str, attempt: int = 1, **data: Any) -> None:
        """Record a report of a worker."""
        self._reports += 1
        event = Event(f"{self._reports}-1", kind, execution, attempt, {"worker": "w1", **data})
        with self.database.write() as connection:
            record_events(connection, [event])

    def release_due(self) -> None:
        """Release the executions that are due."""
        with self.database.write() as connection:
            due_executions.release_due(connection, self.clock.now() + _DAY, 100)

    def dispatch(self) -> list[str]:
        """Run one dispatch round and return the published executions in the order of their submission."""
        before = self.list_published()
        self.dispatcher.dispatch()
        return sorted(self.list_published() - before, key=self._submitted.index)

    def list_published(self) -> set[str]:
        """Return the executions that are published, according to SQL."""
        with self.database.read() as connection:
            return {row.id for row in dispatch.list_published_before(connection, self.clock.now() + _DAY, 100_000)}

    def list_queued(self, priority: int = 5) -> list[str]:
        """Return the executions whose messages are in the list of this priority, the next one first."""
        messages: Any = self.client.lrange(get_list_name("default", priority), 0, -1)
        return [json.loads(raw)["headers"]["jobworker"]["execution"] for raw in reversed(messages)]

    def request_cancel(self, execution: str) -> None:
        """Request the cancellation of an execution."""
        with self.database.write() as connection:
            assert executions.request_cancel(connection, execution, "ann", self.clock.now())

    def get_execution(self, execution: str) -> ExecutionRow:
        """Return the row of an execution."""
        with self.database.read() as connection:
            row = executions.get(connection, execution)
        assert row is not None
        return row

    def pop_messages(self) -> list[str]:
        """Remove the messages of the default queue and return them."""
        messages: Any = self.client.lpop(get_list_name("default", 5), 1000)
        return list(reversed(messages or []))

    def mark_fetched(self, execution: str, attempt: int = 1) -> None:
        """Write the record of a worker that fetched the attempt and has not started it."""
        self.client.set(keys.RUN.format(execution=execution), f"{attempt} running w1 7")

    def mark_returned(self, execution: str, attempt: int = 1) -> None:
        """Remove that record, as a worker does that cannot start the attempt."""
        self.client.set(keys.RUN.format(execution=execution), f"{attempt - 1} finished - -")


class NonBlockingReader(StreamReader):
    """Reader that does not wait, because the test advances the clock."""

    def read(self, offsets: StreamOffsets, wait: float) -> EventBatch:
        return super().read(offsets, 0.001)


def create_relay(driver: DispatchDriver, redis_url: str, clock: ManualClock | None = None) -> Relay:
    """Return a relay that does not wait. It does not lead yet, and may."""
    relay = Relay(driver.database, redis_url, clock or driver.clock, Settings.from_environment({}))
    relay._reader = NonBlockingReader(relay._client, relay._problems)
    return relay


@pytest.fixture
def driver(database: Database, redis_url: str, clock: ManualClock) -> Iterator[DispatchDriver]:
    """Driver on SQLite, then on PostgreSQL."""
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield DispatchDriver(database, client, clock)


@pytest.fixture
def sqlite_driver(sqlite_database: Database, redis_url: str, clock: ManualClock) -> Iterator[DispatchDriver]:
    """Driver on SQLite, for tests in which only Redis matters."""
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield DispatchDriver(sqlite_database, client, clock)
