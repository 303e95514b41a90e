"""The engine under test: real relays and real workers on a real Redis and a real database."""

import collections
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.submissions.submission import Submission
from jobworker.services.executions import executions
from jobworker.services.submissions import submission
from jobworker.store import jobs, workers
from jobworker.store.database.database import Database
from jobworker.store.executions import executions as store
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow
from jobworker.transport.notifier import Notifier
from tests.polling import wait_until
from tests.servers import ServerProcess

#: Lease of workers (s): short enough that a test notices a dead worker, long enough for a busy machine.
LEASE_SECONDS = 3.0


class SystemDriver:
    """Relays and workers that share one home, submissions as the API makes them, and the log of what really ran."""

    def __init__(self, folder: Path, database: Database, database_url: str, redis_url: str) -> None:
        self.folder = folder
        self.database = database
        self.activity_log = folder / "activity.txt"
        self.clock = SystemClock()
        self.redis_url = redis_url
        #: Output file of processes; None: each process has a log in `folder`.
        self.output: Path | None = None
        self._notifier = Notifier(redis_url)
        self._processes: list[ServerProcess] = []
        self._environment = {
            **os.environ,
            "JOBWORKER_HOME": str(folder / "home"),
            "JOBWORKER_DATABASE_URL": database_url,
            "JOBWORKER_REDIS_URL": redis_url,
            "JOBWORKER_TASKS": "tests.jobs",
            "JOBWORKER_SCHEDULES": "none",
            "JOBWORKER_WORKER_LEASE": str(LEASE_SECONDS),
            "JOBWORKER_LOST_MESSAGE_AFTER": "2",
            "JOB_DIARY": str(self.activity_log),
            "PYTHONUNBUFFERED": "1",
        }

    def start_relay(self, **settings: str) -> ServerProcess:
        """Start a relay."""
        return self._start("relay", ["-m", "jobworker.cli", "relay"], settings)

    def start_worker(self, *options: str, **settings: str) -> ServerProcess:
        """Start a worker with two processes, unless overridden by `options` of `celery worker`.

        It does not wait a second for responses of other workers (Celery's "mingle").
        """
        command = ["-m", "celery", "-A", "jobworker", "worker", "-c", "2", "--without-mingle", "--loglevel", "INFO"]
        command += options
        return self._start("worker", command, settings)

    def start_beat(self, app: str = "jobworker", **settings: str) -> ServerProcess:
        """Start a beat of this Celery app."""
        return self._start("beat", ["-m", "celery", "-A", app, "beat", "--loglevel", "INFO"], settings)

    def start_celery(self, *arguments: str, **settings: str) -> ServerProcess:
        """Start one of Celery's other commands."""
        return self._start(arguments[0], ["-m", "celery", "-A", "jobworker", *arguments], settings)

    def run_python(self, code: str) -> str:
        """Run a user's program that can import the jobs and the Celery app, and return its output."""
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self) -> tuple[ServerProcess, ServerProcess]:
        """Start a relay and a worker, and wait until every job can run."""
        pair = self.start_relay(), self.start_worker()
        self.wait_until_ready()
        return pair

    def wait_until_ready(self, job: str = "noop") -> None:
        """Wait until `job` is stored, and a live worker offers it."""

        def known() -> bool:
            with self.database.read() as connection:
                offered = any(job in worker.tasks for worker in workers.list_live(connection))
                return offered and jobs.get(connection, job) is not None

        # A worker's start takes a second of CPU time, which other processes compete for.
        wait_until(known, within=120.0, what=f"a worker that offers {job}; logs in {self.folder}")

    def submit(self, job: str, count: int = 1, **parameters: Any) -> list[str]:
        """Submit `count` equal executions in one transaction."""
        submissions = [Submission(job=job, parameters=parameters) for _ in range(count)]
        accepted = submission.submit_batch(self.database, self.clock, submissions, "test")
        self._notifier.notify_soon()
        return list(accepted.execution_ids)

    def submit_one(self, job: str, **fields: Any) -> str:
        """Submit one execution with options of `Submission`."""
        row, _ = submission.submit(self.database, self.clock, Submission(job=job, **fields), "test")
        self._notifier.notify_soon()
        return row.id

    def notify_relay(self) -> None:
        """Notify the relay, as the API does."""
        self._notifier.notify_soon()

    def cancel(self, execution: str) -> ExecutionRow:
        """Request the cancellation of an execution."""
        row = executions.cancel(self.database, self.clock, execution, "tester")
        self._notifier.notify_soon()
        return row

    def get(self, execution: str) -> ExecutionRow:
        """Return the execution's current row."""
        return executions.get(self.database, execution)

    def wait_for_state(self, execution: str, state: ExecutionState, within: float = 60.0) -> ExecutionRow:
        """Wait until the execution is in this state, and return it."""

        def there() -> ExecutionRow | None:
            row = self.get(execution)
            return row if row.state is state else None

        row = wait_until(there, within, what=f"{execution} to be {state}; logs in {self.folder}")
        assert row is not None
        return row

    def wait_until_final(self, execution: str, within: float = 60.0) -> ExecutionRow:
        """Wait until the execution is final, and return it."""

        def final() -> ExecutionRow | None:
            row = self.get(execution)
            return row if row.state in FINAL_STATES else None

        row = wait_until(final, within, what=f"{execution} to end; it is {self.get(execution)}; logs in {self.folder}")
        assert row is not None
        return row

    def wait_until_all_final(self, within: float = 120.0) -> dict[str, int]:
        """Wait until all executions are final, and return their number by state."""

        def counted() -> dict[str, int] | None:
            states = self.count_states()
            return states if set(states) <= set(FINAL_STATES) else None

        answer = wait_until(counted, within, every=0.1, what=f"everything to end; logs in {self.folder}")
        assert answer is not None
        return answer

    def wait_for_executions(self, job: str, count: int = 1, within: float = 60.0) -> list[ExecutionRow]:
        """Wait until a job has exactly `count` executions, all final, and return them, the oldest first."""

        def ended() -> list[ExecutionRow]:
            with self.database.read() as connection:
                rows = store.list_page(connection, ExecutionFilters(job=job), count + 1).items
            return list(rows)[::-1] if len(rows) == count and all(row.state in FINAL_STATES for row in rows) else []

        return wait_until(ended, within, what=f"{count} executions of {job} to end; logs in {self.folder}")

    def has_execution(self, execution: str) -> bool:
        """Return whether the execution has a row."""
        with self.database.read() as connection:
            return store.get(connection, execution) is not None

    def wait_until_known_and_final(self, execution: str) -> ExecutionRow:
        """Wait until an execution not submitted by the engine exists and is final, and return it."""
        wait_until(lambda: self.has_execution(execution), 60.0, what=f"{execution} to be known; logs in {self.folder}")
        return self.wait_until_final(execution)

    def count_states(self) -> dict[str, int]:
        """Return the number of executions by state."""
        with self.database.read() as connection:
            rows = connection.execute(sa.text("SELECT state, count(*) AS number FROM executions GROUP BY state"))
            return {row.state: row.number for row in rows}

    def list_succeeded(self) -> set[str]:
        """Return the ids of the executions that succeeded according to SQL."""
        with self.database.read() as connection:
            return set(connection.scalars(sa.text("SELECT id FROM executions WHERE state = 'Succeeded'")))

    def list_transitions(self, execution: str) -> list[tuple[int, str]]:
        """Return (attempt, state) of each transition, in order."""
        rows = executions.list_transitions(self.database, execution, limit=200).items
        return [(row.attempt, row.state.value) for row in rows]

    def is_running(self, execution: str, attempt: int = 1) -> bool:
        """Return whether the attempt has started, according to the activity log."""
        return (execution, attempt) in self.count_starts()

    def count_starts(self) -> collections.Counter[tuple[str, int]]:
        """Return how often each (execution, attempt) really started."""
        return self._count_activity("start")

    def count_ends(self) -> collections.Counter[tuple[str, int]]:
        """Return how often each (execution, attempt) really ended."""
        return self._count_activity("end")

    def read_log(self, process: ServerProcess) -> str:
        """Return the output of a process."""
        return process.log.read_text(errors="replace")

    def stop(self) -> None:
        """Stop all processes that still run."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                # All processes get the signal first, because each takes time to end.
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.terminate(signal.SIGTERM, signal.SIGQUIT)

    def _count_activity(self, event: str) -> collections.Counter[tuple[str, int]]:
        lines = self.activity_log.read_text().splitlines() if self.activity_log.exists() else []
        words = [line.split() for line in lines]
        return collections.Counter(
            (execution, int(attempt)) for execution, attempt, noted, _ in words if noted == event
        )

    def _start(self, name: str, arguments: list[str], settings: Mapping[str, str]) -> ServerProcess:
        log = self.output or self.folder / f"{name}-{len(self._processes)}.log"
        process = ServerProcess([sys.executable, *arguments], log, environment={**self._environment, **settings})
        self._processes.append(process)
        return process


@contextlib.contextmanager
def run_system(folder: Path, database: Database, database_url: str, redis_url: str) -> Iterator[SystemDriver]:
    """Yield an engine, and stop all its processes at the end of the block."""
    engine = SystemDriver(folder, database, database_url, redis_url)
    try:
        yield engine
    finally:
        engine.stop()
