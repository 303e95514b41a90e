"""A relay's dispatcher between a real Redis and a database, with nobody else there."""

import contextlib
import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from jobworker.clock import ManualClock
from jobworker.domain.job import Definition, Owner
from jobworker.relay.dispatch import Dispatcher
from jobworker.store import executions, jobs
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow
from jobworker.store.workers import WorkerRow
from jobworker.transport import keys
from jobworker.transport.claims import Claims
from jobworker.transport.publisher import Publisher, list_name
from tests.conformance.worlds import accepted, new

SEND = Definition("send", "tasks.mail.send")


def worker(now: dt.datetime) -> WorkerRow:
    """One that can run everything."""
    return WorkerRow("w1", "host", 1, "prefork", 2, ("default",), (SEND.task,), "v1", now, now)


class World:
    """What the dispatcher sees, and what can be seen of it."""

    def __init__(self, database: Database, client: redis.Redis, clock: ManualClock) -> None:
        self.database = database
        self.client = client
        self.clock = clock
        self.dispatcher = Dispatcher(database, Publisher(client), Claims(client), clock, feed=100)
        self.dispatcher.workers = [worker(clock.now())]

    def submit(self, definition: Definition = SEND) -> str:
        """A queued execution of `definition`."""
        with self.database.write() as connection:
            jobs.put(connection, definition, Owner.API, "ann", self.clock.now())
            [made] = accepted(connection, new(at=self.clock.now()), now=self.clock.now())
        return made

    def cancel(self, execution: str) -> None:
        """Ask for it not to start."""
        with self.database.write() as connection:
            assert executions.request_cancel(connection, execution, "ann", self.clock.now())

    def get(self, execution: str) -> ExecutionRow:
        """The execution as it stands."""
        with self.database.read() as connection:
            row = executions.get(connection, execution)
        assert row is not None
        return row

    def taken(self) -> list[str]:
        """The messages of the default queue, which are gone then."""
        found: Any = self.client.lpop(list_name("default", 5), 1000)
        return list(reversed(found or []))

    def fetch(self, execution: str, attempt: int = 1) -> None:
        """As if a worker had fetched the attempt and not started it."""
        self.client.set(keys.RUN.format(execution=execution), f"{attempt} running w1 7")

    def give_back(self, execution: str, attempt: int = 1) -> None:
        """As if that worker could not start it after all."""
        self.client.set(keys.RUN.format(execution=execution), f"{attempt - 1} finished - -")


@pytest.fixture
def world(database: Database, redis_url: str, clock: ManualClock) -> Iterator[World]:
    """Once on SQLite and once on PostgreSQL."""
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield World(database, client, clock)
