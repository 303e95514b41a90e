"""Scenarios for limits and priorities. Each function starts its servers in a folder and returns measurements."""

import contextlib
import datetime as dt
import json
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

from bench.harness import Harness, wait_until
from bench.report import Measurement, expect_at_most
from bench.system.systems import HttpClient, JobWorkerStack
from jobworker.clock import SystemClock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.ids import IdFactory
from jobworker.domain.jobs import limits, policies
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.relay.dispatch import Dispatcher
from jobworker.relay.problems import RelayProblems
from jobworker.store import jobs, migrate
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.executions import NewExecution
from jobworker.store.tables import core
from jobworker.store.workers import WorkerRow
from jobworker.transport.claims import Claims
from jobworker.transport.publisher import Publisher

_KEY_COUNT = 100
_MAX_BATCH_SIZE = 10_000
_ROUND_COUNT = 20


def measure_limit_cost(folder: Path) -> list[Measurement]:
    """Measure the relay's CPU per execution, ready → final in SQL: without limits, and with 100 keys of one slot."""
    with JobWorkerStack(folder) as ours:
        free = _measure_cpu_per_execution(ours, "noop", 10_000)
        few = _measure_cpu_per_execution(ours, "limited", 1_000)
        many = _measure_cpu_per_execution(ours, "limited", 10_000)
    words = f"relay CPU per execution, {_KEY_COUNT} concurrency keys"
    return [
        Measurement("relay CPU per execution, no limits, 10,000 waiting", "µs", free),
        Measurement(f"{words}, 1,000 waiting", "µs", few),
        Measurement(f"{words}, 10,000 waiting", "µs", many),
        Measurement(f"{words}: 10,000 waiting ÷ 1,000 waiting", "×", many / few, target=expect_at_most(10)),
    ]


def measure_blocked_rounds(folder: Path) -> list[Measurement]:
    """Measure a round of the dispatcher in this process while every key is full, so that it dispatches nothing."""
    figures = []
    with Harness(folder) as rig:
        client = rig.start_redis("redis")
        backlog = Backlog(folder / "jobworker.db")
        for count in (1_000, 10_000, 100_000):
            backlog.grow_to(count)
            taken = backlog.measure_blocked_round(client) * 1000
            figures.append(
                Measurement(f"CPU of a round in vain, {_KEY_COUNT} keys are full, {count:,} waiting", "ms", taken)
            )
        backlog.database.dispose()
    return figures


def measure_urgent_latency(folder: Path) -> list[Measurement]:
    """Measure how soon an execution with priority 9 starts while 100,000 of default priority and 20 ms each wait."""
    with JobWorkerStack(folder) as ours:
        _submit_jobs(ours, "brief", 100_000)
        wait_until(lambda: ours.count_final() > 100)
        ids = []
        for _ in range(20):
            time.sleep(0.5)
            ids.append(_request(ours, "POST", "/api/v1/jobs/brief/executions", {"priority": 9})["id"])
        wait_until(lambda: len(_query_latencies(ours, ids)) == len(ids))
        waits = sorted(_query_latencies(ours, ids))
        waiting = _request(ours, "GET", "/api/v1/queues/default")["ready"]
    words = "accepted → started with priority 9, 100,000 waiting"
    return [
        Measurement(f"{words}, p50", "s", statistics.median(waits)),
        Measurement(f"{words}, the latest of 20", "s", waits[-1], target=expect_at_most(2)),
        Measurement("still waiting after these", "executions", waiting),
    ]


def _measure_cpu_per_execution(ours: JobWorkerStack, job: str, count: int) -> float:
    _request(ours, "POST", "/api/v1/queues/default/pause")
    before = ours.count_final()
    _submit_jobs(ours, job, count)
    relay = ours.usage["relay"]
    used = relay.measure_cpu()
    _request(ours, "POST", "/api/v1/queues/default/resume")
    wait_until(lambda: ours.count_final() >= before + count, within=600, every=0.1)
    return (relay.measure_cpu() - used) / count * 1e6


class Backlog:
    """Database in which one execution of each key runs and others wait for it to end."""

    def __init__(self, path: Path) -> None:
        migrate.upgrade(f"sqlite:///{path}")
        self.database = Database(f"sqlite:///{path}")
        self._clock = SystemClock()
        self._ids = IdFactory()
        self._count = 0
        normalized_policies, _ = policies.normalize({"concurrency": {"limit": 1, "key": "{key}"}})
        self._definition = JobDefinition("limited", "limited", policies=normalized_policies)
        with self.database.write() as connection:
            jobs.upsert(connection, self._definition, JobOwner.API, "bench", self._clock.now())
            executions.insert(
                connection, [self._make_execution(key) for key in range(_KEY_COUNT)], "bench", self._clock.now()
            )
            connection.execute(sa.update(core.executions).values(state="Running", worker="bench"))

    def grow_to(self, count: int) -> None:
        """Insert waiting executions until there are `count`."""
        rows = [self._make_execution(number % _KEY_COUNT) for number in range(self._count, count)]
        self._count = count
        with self.database.write() as connection:
            executions.insert(connection, rows, "bench", self._clock.now())

    def measure_blocked_round(self, client: redis.Redis) -> float:
        """Return the CPU time (s) of one round."""
        ageing, now = dt.timedelta(seconds=60), self._clock.now()
        clock, problems = self._clock, RelayProblems(self._clock)
        publisher, claims = Publisher(client), Claims(client)
        dispatcher = Dispatcher(self.database, publisher, claims, clock, 1000, "bench", ageing, problems)
        dispatcher.workers = [WorkerRow("bench", "bench", 1, "solo", 1, ("default",), ("limited",), "", now, now)]
        dispatcher.dispatch()
        started_at = time.process_time()
        published = sum(dispatcher.dispatch() for _ in range(_ROUND_COUNT))
        taken = time.process_time() - started_at
        if published or not dispatcher.is_limited:
            raise RuntimeError("the round was not in vain")
        return taken / _ROUND_COUNT

    def _make_execution(self, key: int) -> NewExecution:
        now = self._clock.now()
        new_id = self._ids.create_id(int(now.timestamp() * 1000))
        keys = limits.compute_keys("limited", self._definition.policies, {"key": key})
        return NewExecution(
            id=new_id,
            job="limited",
            job_revision=1,
            task="limited",
            max_attempts=None,
            queue="default",
            priority=5,
            parameters={"key": key},
            correlation_id=new_id,
            batch_id=None,
            schedule_id=None,
            scheduled_for=None,
            due_at=now,
            state=ExecutionState.QUEUED,
            **keys._asdict(),
        )


def _submit_jobs(ours: JobWorkerStack, job: str, count: int) -> None:
    client = HttpClient(ours.http.port)
    for start in range(0, count, _MAX_BATCH_SIZE):
        numbers = range(start, min(start + _MAX_BATCH_SIZE, count))
        items = [
            {"job": job, "parameters": {"key": number % _KEY_COUNT} if job == "limited" else {}} for number in numbers
        ]
        client.submit("/api/v1/executions/batch", {"executions": items})


def _request(ours: JobWorkerStack, method: str, path: str, body: Any = None) -> Any:
    status, answer = ours.http.request(method, path, body)
    if status == 0:  # The server closed the idle connection.
        status, answer = ours.http.request(method, path, body)
    if status not in (200, 202):
        raise RuntimeError(f"{method} {path}: {status} {answer}")
    return answer


def _query_latencies(ours: JobWorkerStack, ids: list[str]) -> list[float]:
    """Return the time (s) from accepted to started of those executions in `ids` that have started."""
    query = (
        "SELECT (julianday(started_at) - julianday(created_at)) * 86400 FROM executions WHERE started_at IS NOT NULL"
    )
    with contextlib.closing(sqlite3.connect(ours.database)) as connection:
        rows = connection.execute(f"{query} AND id IN (SELECT value FROM json_each(?))", (json.dumps(ids),))
        return [float(row[0]) for row in rows]
