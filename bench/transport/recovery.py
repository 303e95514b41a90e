"""Benchmark of the time until the work of a killed worker runs on another worker, with relay and SQLite."""

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.harness import wait_until
from bench.probe import JobStart
from bench.report import Measurement, expect_at_most
from bench.transport.context import TransportContext
from bench.transport.systems import JobWorkerTransport
from jobworker.clock import SystemClock
from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.domain.submissions.submission import Submission
from jobworker.services.executions import executions
from jobworker.services.submissions import submission
from jobworker.store import jobs
from jobworker.store.database.database import Database

#: Default lease of a worker, and maximum time for the other steps (s).
_LEASE_SECONDS = 15
_GRACE_SECONDS = 2

#: Number of jobs, of which the victim runs one and has fetched the others (up to its prefetch limit).
_JOB_COUNT = 4


def measure_recovery(bench: TransportContext) -> list[Measurement]:
    """Measure the time from kill -9 of a worker with running and fetched jobs until another worker runs them."""
    with bench.make_jobworker(worker_lease=str(_LEASE_SECONDS)) as ours:
        service = _RelayService(ours)
        try:
            ours.start_worker("victim", ("--concurrency", "1", "--prefetch-multiplier", str(_JOB_COUNT)))
            return _measure_after_kill(bench, ours, service)
        finally:
            service.database.dispose()


class _RelayService:
    """Relay and database in addition to the worker."""

    def __init__(self, ours: JobWorkerTransport) -> None:
        address = f"sqlite:///{Path(ours.folder, 'jobworker.db')}"
        settings = {**ours.environment, "JOBWORKER_DATABASE_URL": address}
        command = [sys.executable, "-m", "jobworker.cli", "db", "upgrade"]
        subprocess.run(command, env={**os.environ, **settings}, check=True, capture_output=True)
        ours.start_python("relay", ["-m", "jobworker.cli", "relay"], **settings)
        self.database = Database(address)

    def submit(self) -> list[str]:
        """Submit the jobs that keep the worker busy."""
        wait_until(self._is_job_defined, what="a definition of the job")
        requests = [Submission(job="hold", parameters={})] * _JOB_COUNT
        return list(submission.submit_batch(self.database, SystemClock(), requests, "bench").execution_ids)

    def _is_job_defined(self) -> bool:
        with self.database.read() as connection:
            return jobs.get(connection, "hold") is not None

    def are_all_final(self, ids: list[str]) -> bool:
        """Return whether all executions have ended."""
        return all(executions.get(self.database, execution).state in FINAL_STATES for execution in ids)


def _measure_after_kill(bench: TransportContext, ours: JobWorkerTransport, service: _RelayService) -> list[Measurement]:
    bench.probe.clear()
    ids = service.submit()
    wait_until(lambda: bench.probe.count_starts() == 1, what="the victim to run one job")
    # The heir has a free process for each job, so the victim holds all jobs that the heir does not start now.
    ours.start_worker("heir", ("--concurrency", str(_JOB_COUNT)))
    wait_until(lambda: not ours.broker.llen(ours.get_waiting_list()), what="an empty queue")
    time.sleep(1)
    before = bench.probe.get_starts()
    killed_at = time.time()
    ours.kill("victim")
    wait_until(
        lambda: len(_get_runs_since(bench, killed_at)) == _JOB_COUNT - len(before) + 1,
        what="everything to run on the heir",
    )
    runs = _get_runs_since(bench, killed_at)
    bench.probe.release_jobs()
    wait_until(lambda: service.are_all_final(ids), what="everything to end")
    return _make_measurements(before[0], runs, killed_at)


def _get_runs_since(bench: TransportContext, since: float) -> dict[str, JobStart]:
    return {start.execution: start for start in bench.probe.get_starts() if start.at > since}


def _make_measurements(running: JobStart, runs: dict[str, JobStart], killed_at: float) -> list[Measurement]:
    reserved = [start.at - killed_at for start in runs.values() if start.execution != running.execution]
    label, target = "kill -9 → running elsewhere", expect_at_most(_LEASE_SECONDS + _GRACE_SECONDS)
    figures = [Measurement(f"{label}, what ran", "s", runs[running.execution].at - killed_at, target=target)]
    if reserved:
        figures.append(Measurement(f"{label}, the last of what was fetched", "s", max(reserved), target=target))
    return figures
