"""Celery's prefork pool, except for how a job reaches its process, and for how a process ends.

Celery writes the length and then the job. The process wakes up for the length, finds no job yet, and sleeps again:
two changes of process for each job, which is most of what a short one costs where processes outnumber cores. Here it is
one write.

Each process leads a group of its own, so that what its jobs started ends with it, however it ends; and its end is seen
at once. Time limits are not the pool's business (`limits.py`).
"""

import multiprocessing
import multiprocessing.process
import signal
from collections.abc import Callable
from typing import Any

from billiard import current_process
from celery.concurrency import asynpool, prefork
from celery.concurrency.asynpool import AsynPool

from jobworker.orphan_reaper import OrphanReaper
from jobworker.worker.celery.task import JobTask
from jobworker.worker.control import process_tree
from jobworker.worker.control.time_limits import TERMINATE_TIMEOUT_SECONDS

#: Longer jobs are not copied for it (bytes); a pipe takes so much at once.
_MAX_COPIED_SIZE = 32 * 1024

_HEADER_SIZE = 4

#: What `multiprocessing` takes the worker for: the main process.
_MAIN_PROCESS = multiprocessing.current_process()

#: After this time (s) a process whose pipe has closed is gone.
_EXIT_DELAY_SECONDS = 0.1


class SingleWriteSender:
    """Stands before a process's pipe: holds the length back until the job comes, and writes both.

    Called as what it wraps: (buffer, offset) → how many bytes of the buffer are written; raises what the pipe raises.
    """

    def __init__(self, send: Callable[[Any, int], int]) -> None:
        self._send = send
        self._header = b""

    def __call__(self, buffer: memoryview, offset: int) -> int:
        if len(buffer) == _HEADER_SIZE:
            self._header = bytes(buffer[offset:])
            return len(self._header)
        if self._header:
            return self._send_both(buffer, offset)
        return self._send(buffer, offset)

    def _send_both(self, buffer: memoryview, offset: int) -> int:
        rest = b"" if len(buffer) > _MAX_COPIED_SIZE else buffer[offset:]
        written = self._send(self._header + rest, 0)
        of_header = min(written, len(self._header))
        self._header = self._header[of_header:]
        return written - of_header


class Worker(asynpool.Worker):
    """What runs in each process."""

    reaper: OrphanReaper | None = None

    def after_fork(self) -> None:
        """Before the first job."""
        process_tree.start_session()
        if self.reaper:
            self.reaper.close_inherited_pipe()
        super().after_fork()
        _allow_children()
        if JobTask.runner:
            JobTask.runner.control_table.bind_process(current_process().index)
            # Celery's own handler would raise it in whatever runs by then, be it the next job.
            signal.signal(signal.SIGUSR1, JobTask.runner.control_table.on_soft_limit)


def _allow_children() -> None:
    """Let jobs use `multiprocessing`, which takes a process of the pool for one of its own that must have no children.

    They need not be daemons: all of the group ends with its process.
    """
    _MAIN_PROCESS.name = current_process().name  # Python's logging shows it.
    multiprocessing.process._current_process = _MAIN_PROCESS  # type: ignore[attr-defined]


class JobPool(AsynPool):
    """The pool of processes behind `TaskPool`."""

    Worker = Worker

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # The processes end with this one, whatever ends it; it takes a guardian to end what their jobs started, too.
        self._reaper = OrphanReaper()
        super().__init__(*arguments, **options)

    def WorkerProcess(self, worker: Any) -> Any:  # noqa: N802  billiard's name
        """Before the fork."""
        worker.guardian = self._reaper
        return super().WorkerProcess(worker)

    def register_with_event_loop(self, hub: Any) -> None:
        """Runs again after each reconnection."""
        self._loop = hub
        super().register_with_event_loop(hub)

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """Send a signal to a process because of its job, and SIGKILL if the job minds it not."""
        super().terminate_job(pid, sig)
        for job in list(self._cache.values()):
            if job._worker_pid == pid:
                self._loop.call_later(TERMINATE_TIMEOUT_SECONDS, _kill_unless_ready, job)

    def _create_worker_process(self, i: int) -> Any:
        process = super()._create_worker_process(i)
        process.send_job_offset = SingleWriteSender(process.send_job_offset)
        self._update_reaper()
        return process

    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        super()._event_process_exit(hub, proc)
        # Its pipe closes a moment before the process is gone, and Celery itself looks again in five seconds.
        hub.call_later(_EXIT_DELAY_SECONDS, self.maintain_pool)

    def _join_exited_workers(self, shutdown: bool = False) -> Any:
        before = {process.pid for process in self._pool}
        try:
            return super()._join_exited_workers(shutdown)
        finally:
            gone = before - {process.pid for process in self._pool}
            for pid in gone:
                process_tree.kill_group(pid)
            if gone:
                self._update_reaper()

    def _update_reaper(self) -> None:
        self._reaper.set_groups(process.pid for process in self._pool)


def _kill_unless_ready(job: Any) -> None:
    if not job.ready():
        process_tree.kill_tree(job._worker_pid)


class TaskPool(prefork.TaskPool):
    """Selected through `worker_pool`: what `--pool prefork` means here."""

    Pool = JobPool

    #: The limits (s) of what has none of its own: those of `celery worker --time-limit` and `--soft-time-limit`.
    default_limits: tuple[float | None, float | None] = (None, None)

    def on_start(self) -> None:
        """Fork the processes."""
        self.default_limits = self.options.pop("timeout", None), self.options.pop("soft_timeout", None)
        super().on_start()

    def on_stop(self) -> None:
        """End when the last job has."""
        pool = self._pool
        super().on_stop()
        _kill_process_groups(pool)

    def on_terminate(self) -> None:
        """End now."""
        pool = self._pool
        super().on_terminate()
        _kill_process_groups(pool)


def _kill_process_groups(pool: Any) -> None:
    for process in pool._pool if pool else ():
        process_tree.kill_group(process.pid)


def is_prefork(pool: Any) -> bool:
    """Whether jobs run in processes that this one has forked."""
    return isinstance(pool, prefork.TaskPool)


def get_default_limits(pool: Any) -> tuple[float | None, float | None]:
    """The hard and the soft limit (s) that any pool was started with."""
    if isinstance(pool, TaskPool):
        return pool.default_limits
    return pool.options.get("timeout"), pool.options.get("soft_timeout")


def get_name(pool: Any) -> str:
    """As `--pool` calls it: prefork, threads, solo, …"""
    module = type(pool).__module__.rpartition(".")[2]
    return "prefork" if is_prefork(pool) else {"thread": "threads"}.get(module, module)
