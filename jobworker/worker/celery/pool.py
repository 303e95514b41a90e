"""Celery's prefork pool, except for how a job reaches its process, and for how a process ends.

Celery writes the length and then the job. The process wakes up for the length, finds no job yet, and sleeps again: two
context switches per job, which is most of the cost of a short job where processes outnumber cores. Here both are
written in one call.

Each process leads a process group, so that child processes of its jobs end with it in every case, and its end is
noticed at once. The pool does not enforce time limits (`worker.control.time_limits` does).
"""

import multiprocessing
import multiprocessing.process
import os
import signal
from collections.abc import Callable
from typing import Any

from billiard import current_process
from billiard.pool import EX_OK
from celery.concurrency import asynpool, prefork
from celery.concurrency.asynpool import AsynPool

from jobworker.orphan_reaper import OrphanReaper
from jobworker.worker.celery.task import JobTask
from jobworker.worker.control import process_tree
from jobworker.worker.control.time_limits import TERMINATE_TIMEOUT_SECONDS

#: Maximum size of a job that is copied for the single write (bytes); a pipe accepts this much at once.
_MAX_COPIED_SIZE = 32 * 1024

_HEADER_SIZE = 4

#: The process that `multiprocessing` regards as the worker: the main process.
_MAIN_PROCESS = multiprocessing.current_process()

#: Time within which a process is gone after its pipe has closed (s).
_EXIT_DELAY_SECONDS = 0.1


class SingleWriteSender:
    """A wrapper of a process's pipe: holds the length back until the job follows, and writes both at once.

    Called like the wrapped function: (buffer, offset) → number of bytes written; raises the pipe's errors.
    """

    def __init__(self, send: Callable[[Any, int], int]) -> None:
        self._send = send
        self._header = b""

    def __call__(self, buffer: memoryview, offset: int) -> int:
        if len(buffer) == _HEADER_SIZE:
            self._header = bytes(buffer[offset:])
            return len(self._header)
        if self._header:
            return self._send_with_header(buffer, offset)
        return self._send(buffer, offset)

    def _send_with_header(self, buffer: memoryview, offset: int) -> int:
        body = b"" if len(buffer) > _MAX_COPIED_SIZE else buffer[offset:]
        written = self._send(self._header + body, 0)
        of_header = min(written, len(self._header))
        self._header = self._header[of_header:]
        return written - of_header


class Worker(asynpool.Worker):
    """The code that runs in each process of the pool."""

    reaper: OrphanReaper | None = None

    def after_fork(self) -> None:
        """Prepare the process before its first job."""
        process_tree.start_session()
        if self.reaper:
            self.reaper.close_inherited_pipe()
        super().after_fork()
        _allow_children()
        if JobTask.runner:
            JobTask.runner.control_table.bind_process(current_process().index)
            # Celery's own handler would raise the exception in any code that runs by then, even in the next job.
            signal.signal(signal.SIGUSR1, JobTask.runner.control_table.on_soft_limit)

    def _do_exit(self, pid: int, exitcode: int | None, exc: Exception | None = None) -> None:
        """End the process; when the pool stops, without the second that billiard sleeps before the end."""
        if exitcode or exc is not None:
            super()._do_exit(pid, exitcode, exc)
        if self.on_exit is not None:
            self.on_exit(pid, EX_OK)
        os._exit(EX_OK)


def _allow_children() -> None:
    """Let jobs use `multiprocessing`, which treats a process of the pool as a daemon of its own without children.

    The children need not be daemons: the whole group ends with its process.
    """
    _MAIN_PROCESS.name = current_process().name  # Python's logging shows this name.
    multiprocessing.process._current_process = _MAIN_PROCESS  # type: ignore[attr-defined]


class JobPool(AsynPool):
    """The pool of processes behind `TaskPool`."""

    Worker = Worker

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # The pool's processes end with this process in every case; an orphan reaper is needed to end the children of
        # their jobs.
        self._reaper = OrphanReaper()
        super().__init__(*arguments, **options)

    def WorkerProcess(self, worker: Any) -> Any:  # noqa: N802  billiard's name
        """Pass the orphan reaper to a process before the fork."""
        worker.reaper = self._reaper
        return super().WorkerProcess(worker)

    def register_with_event_loop(self, hub: Any) -> None:
        """Register with the event loop; called again after each reconnection."""
        self._loop = hub
        super().register_with_event_loop(hub)

    def terminate_job(self, pid: int, sig: int | None = None) -> None:
        """Send a signal to a process because of its job, and SIGKILL later if the job has not ended."""
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
        # The pipe closes a moment before the process is gone, and Celery itself checks again in five seconds.
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
    """The prefork pool, selected through `worker_pool`: the pool of `--pool prefork`."""

    Pool = JobPool

    #: Default time limits (s): those of `celery worker --time-limit` and `--soft-time-limit`.
    default_limits: tuple[float | None, float | None] = (None, None)

    def on_start(self) -> None:
        """Fork the processes."""
        self.default_limits = self.options.pop("timeout", None), self.options.pop("soft_timeout", None)
        super().on_start()

    def on_stop(self) -> None:
        """Stop the processes after their last jobs."""
        pool = self._pool
        super().on_stop()
        _kill_process_groups(pool)

    def on_terminate(self) -> None:
        """Stop the processes at once."""
        pool = self._pool
        super().on_terminate()
        _kill_process_groups(pool)


def _kill_process_groups(pool: Any) -> None:
    for process in pool._pool if pool else ():
        process_tree.kill_group(process.pid)


def is_prefork(pool: Any) -> bool:
    """Return whether jobs run in processes forked by this one."""
    return isinstance(pool, prefork.TaskPool)


def get_default_limits(pool: Any) -> tuple[float | None, float | None]:
    """Return the hard and the soft limit (s) that a pool of any kind was started with."""
    if isinstance(pool, TaskPool):
        return pool.default_limits
    return pool.options.get("timeout"), pool.options.get("soft_timeout")


def get_name(pool: Any) -> str:
    """Return the name of the pool as in `--pool`: prefork, threads, solo, …"""
    module = type(pool).__module__.rpartition(".")[2]
    return "prefork" if is_prefork(pool) else {"thread": "threads"}.get(module, module)
