"""How long it takes until the work of a killed worker runs elsewhere; with relay and SQLite, as a user has it."""

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.diary import Start
from bench.rig import until
from bench.table import Figure, at_most
from bench.transport.bench import Bench
from bench.transport.sides import Ours
from jobworker.clock import SystemClock
from jobworker.domain.admission import Submission
from jobworker.domain.execution import FINAL
from jobworker.services import executions, submission
from jobworker.store import jobs
from jobworker.store.database import Database

#: The default lease, and what the rest may take (s).
_LEASE = 15
_GRACE = 2

#: The victim runs one of these and has fetched the others (as far as it fetches ahead).
_JOBS = 4


def recovery(bench: Bench) -> list[Figure]:
    """One worker holds a running job and fetched ones; seconds from its kill -9 until the other runs them."""
    with bench.make_jobworker(worker_lease=str(_LEASE)) as ours:
        house = _House(ours)
        try:
            ours.start_worker("victim", ("--concurrency", "1", "--prefetch-multiplier", str(_JOBS)))
            return _after_a_kill(bench, ours, house)
        finally:
            house.database.dispose()


class _House:
    """Relay and database beside the worker."""

    def __init__(self, ours: Ours) -> None:
        address = f"sqlite:///{Path(ours.folder, 'jobworker.db')}"
        settings = {**ours.environment, "JOBWORKER_DATABASE_URL": address}
        command = [sys.executable, "-m", "jobworker.cli", "db", "upgrade"]
        subprocess.run(command, env={**os.environ, **settings}, check=True, capture_output=True)
        ours.start_python("relay", ["-m", "jobworker.cli", "relay"], **settings)
        self.database = Database(address)

    def submit(self) -> list[str]:
        """Accept what holds the worker."""
        until(self._is_job_defined, what="a definition of the job")
        wanted = [Submission(job="hold", parameters={})] * _JOBS
        return list(submission.submit_batch(self.database, SystemClock(), wanted, "bench").execution_ids)

    def _is_job_defined(self) -> bool:
        with self.database.read() as connection:
            return jobs.get(connection, "hold") is not None

    def are_all_final(self, ids: list[str]) -> bool:
        """Whether everything has ended."""
        return all(executions.get(self.database, each).state in FINAL for each in ids)


def _after_a_kill(bench: Bench, ours: Ours, house: _House) -> list[Figure]:
    bench.probe.clear()
    ids = house.submit()
    until(lambda: bench.probe.count_starts() == 1, what="the victim to run one job")
    # With a free process for each job: what it does not start now is held by the victim.
    ours.start_worker("heir", ("--concurrency", str(_JOBS)))
    until(lambda: not ours.broker.llen(ours.get_waiting_list()), what="an empty queue")
    time.sleep(1)
    before = bench.probe.get_starts()
    killed_at = time.time()
    ours.kill("victim")
    until(lambda: len(_runs(bench, killed_at)) == _JOBS - len(before) + 1, what="everything to run on the heir")
    runs = _runs(bench, killed_at)
    bench.probe.release_jobs()
    until(lambda: house.are_all_final(ids), what="everything to end")
    return _figures(before[0], runs, killed_at)


def _runs(bench: Bench, since: float) -> dict[str, Start]:
    return {start.execution: start for start in bench.probe.get_starts() if start.at > since}


def _figures(running: Start, runs: dict[str, Start], killed_at: float) -> list[Figure]:
    reserved = [start.at - killed_at for start in runs.values() if start.execution != running.execution]
    what, bar = "kill -9 → running elsewhere", at_most(_LEASE + _GRACE)
    figures = [Figure(f"{what}, what ran", "s", runs[running.execution].at - killed_at, target=bar)]
    if reserved:
        figures.append(Figure(f"{what}, the last of what was fetched", "s", max(reserved), target=bar))
    return figures
