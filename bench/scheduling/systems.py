"""Compared systems with schedules whose executions go into a queue. JobWorker has relay, beat and SQLite."""

import contextlib
import datetime as dt
import os
import sqlite3
from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from bench.harness import Harness, get_redis_url
from bench.scheduling import baseline
from jobworker.domain.ids import IdFactory
from jobworker.domain.jobs.definition import DEFAULT_QUEUE, JobDefinition, JobOwner
from jobworker.domain.schedules.schedule import parse
from jobworker.store import jobs, migrate, tasks
from jobworker.store.database.database import Database
from jobworker.store.tables.schedules import job_schedules
from jobworker.store.tasks import TaskRow
from jobworker.transport import keys
from jobworker.transport.beat import entry_format
from jobworker.transport.publisher import get_list_names
from jobworker.transport.worker_registry import WorkerAnnouncement, WorkerRegistry

#: Lease (s) of a fake worker and size of the feed, so that the relay publishes all executions although no worker runs.
_LEASE_SECONDS, _FEED_SIZE = 3600, 1_000_000

_BATCH_SIZE = 10_000


class JobWorkerScheduling(Harness):
    """JobWorker's Redis and database; relay, beat and worker are started on request."""

    def start(self) -> None:
        """Start Redis and create the database."""
        self.broker = self.start_redis("redis")
        self.path = self.folder / "jobworker.db"
        migrate.upgrade(f"sqlite:///{self.path}")
        self._database = Database(f"sqlite:///{self.path}")
        self._environment = {
            "JOBWORKER_HOME": str(self.folder),
            "JOBWORKER_REDIS_URL": get_redis_url(self.broker),
            "JOBWORKER_TASKS": "bench.jobs",
            "JOBWORKER_SCHEDULES": "none",
            "JOBWORKER_LOG_LEVEL": "WARNING",
        }

    def insert_schedules(self, every: float, due: Iterable[dt.datetime]) -> None:
        """Write a schedule for each time in `due`, with the interval `every` (s), and the job."""
        ids, now = IdFactory(), dt.datetime.now(dt.UTC)
        with self._database.write() as connection:
            tasks.upsert(connection, TaskRow("noop", "", (), {}, "bench", now))
            jobs.upsert(connection, JobDefinition("noop", "noop"), JobOwner.CODE, "bench", now)
        rows = []
        for number, at in enumerate(due):
            rule = {"kind": "interval", "every": every, "anchor": at.isoformat()}
            spec = parse({"name": f"s{number}", "job": "noop", "rule": rule}).to_json()
            rows.append(
                {
                    "id": ids.create_id(int(now.timestamp() * 1000)),
                    "name": f"s{number}",
                    "job": "noop",
                    "owner": "api",
                    "revision": 1,
                    "spec": spec,
                    "enabled": True,
                    "state": "active",
                    "settled_until": now,
                    "next_at": at,
                    "runs": 0,
                    "failures": 0,
                    "created_at": now,
                    "changed_at": now - dt.timedelta(days=1),
                }
            )
        for start in range(0, len(rows), _BATCH_SIZE):
            with self._database.write() as connection:
                connection.execute(sa.insert(job_schedules), rows[start : start + _BATCH_SIZE])
        self._database.dispose()

    def register_fake_worker(self) -> None:
        """Register a worker that does not run, so that the relay publishes and no message is fetched."""
        self._environment |= {"JOBWORKER_WORKER_LEASE": str(_LEASE_SECONDS), "JOBWORKER_FEED": str(_FEED_SIZE)}
        registry = WorkerRegistry(self.broker, _LEASE_SECONDS)
        now = dt.datetime.now(dt.UTC)
        bench = WorkerAnnouncement("bench", "bench", 1, "solo", 1, (DEFAULT_QUEUE,), ("noop",), "bench", "bench", now)
        registry.send_heartbeat(bench, [])
        registry.announce(bench, [])

    def start_relay(self) -> None:
        """Start the relay."""
        self.start_python("relay", ["-m", "jobworker.cli", "relay"], **self._environment)

    def start_beat(self) -> None:
        """Start beat as it is shipped."""
        self.start_python(
            "beat", ["-m", "celery", "-A", "jobworker", "beat", "--loglevel", "WARNING"], **self._environment
        )

    def start_worker(self) -> None:
        """Start a worker."""
        command = ["-m", "celery", "-A", "jobworker", "worker", "--concurrency", "2", "--loglevel", "WARNING"]
        self.start_python("worker", command, **self._environment)

    def count_known_schedules(self) -> int:
        """Return the number of schedules that beat has."""
        return int(self.broker.zcard(entry_format.SCHEDULE_KEY))

    def has_leading_beat(self) -> bool:
        """Return whether a beat is the leader."""
        return bool(self.broker.exists(keys.BEAT))

    def count_fired_occurrences(self) -> int:
        """Return the number of occurrences that are recorded as fired, and therefore have an execution."""
        return self.query_number("SELECT count(*) FROM occurrences WHERE outcome = 'fired'")

    def count_published(self) -> int:
        """Return the number of messages that wait in Redis."""
        return sum(int(self.broker.llen(name)) for name in get_list_names(DEFAULT_QUEUE))

    def query_number(self, query: str) -> int:
        """Return a number from SQL."""
        with self._connect() as connection:
            return int(connection.execute(query).fetchone()[0] or 0)

    def query_lateness(self) -> list[float]:
        """Return the times (s) from nominal time to start of all started executions, sorted."""
        query = "SELECT (julianday(started_at) - julianday(scheduled_for)) * 86400 FROM executions"
        with self._connect() as connection:
            rows = connection.execute(f"{query} WHERE started_at IS NOT NULL").fetchall()
        return sorted(float(row[0]) for row in rows)

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as connection:
            yield connection


class CeleryScheduling(Harness):
    """Stock Celery's Redis; its beat publishes directly."""

    def start(self) -> None:
        """Start Redis only."""
        self.broker = self.start_redis("redis")

    def insert_schedules(self, every: float, due: Iterable[dt.datetime]) -> None:
        """Write an entry for each time in `due`, with the interval `every` (s)."""
        baseline.insert_schedules(self.broker, every, due)

    def start_beat(self) -> None:
        """Start beat with RedBeat's defaults."""
        command = ["-m", "celery", "-A", "bench.scheduling.baseline", "beat", "--loglevel", "WARNING"]
        self.start_python("beat", command, **{**os.environ, "BENCH_BROKER": get_redis_url(self.broker)})

    def has_leading_beat(self) -> bool:
        """Return whether its beat is the leader."""
        return bool(self.broker.exists("redbeat::lock"))

    def count_published(self) -> int:
        """Return the number of messages that wait in Redis."""
        return int(self.broker.llen(baseline.QUEUE))
