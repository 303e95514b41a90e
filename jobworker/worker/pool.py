"""Celery's prefork pool, except that a job reaches its process in one write, and that the end of one is seen at once.

Celery writes the length and then the job. The process wakes up for the length, finds no job yet, and sleeps again:
two changes of process for each job, which is most of what a short one costs where processes outnumber cores.
"""

from collections.abc import Callable
from typing import Any

from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool

#: Longer jobs are not copied for it (bytes); a pipe takes so much at once.
_MOST_COPIED = 32 * 1024

_HEADER = 4

#: After this time (s) a process whose pipe has closed is gone.
_A_MOMENT = 0.1


class OneWrite:
    """Stands before a process's pipe: holds the length back until the job comes, and writes both.

    Called as what it wraps: (buffer, offset) → how many bytes of the buffer are written; raises what the pipe raises.
    """

    def __init__(self, send: Callable[[Any, int], int]) -> None:
        self._send = send
        self._header = b""

    def __call__(self, buffer: memoryview, offset: int) -> int:
        if len(buffer) == _HEADER:
            self._header = bytes(buffer[offset:])
            return len(self._header)
        if self._header:
            return self._send_both(buffer, offset)
        return self._send(buffer, offset)

    def _send_both(self, buffer: memoryview, offset: int) -> int:
        rest = b"" if len(buffer) > _MOST_COPIED else buffer[offset:]
        written = self._send(self._header + rest, 0)
        of_header = min(written, len(self._header))
        self._header = self._header[of_header:]
        return written - of_header


class JobPool(AsynPool):
    """The pool of processes behind `TaskPool`."""

    def _create_worker_process(self, i: int) -> Any:
        process = super()._create_worker_process(i)
        process.send_job_offset = OneWrite(process.send_job_offset)
        return process

    def _event_process_exit(self, hub: Any, proc: Any) -> None:
        super()._event_process_exit(hub, proc)
        # Its pipe closes a moment before the process is gone, and Celery itself looks again in five seconds.
        hub.call_later(_A_MOMENT, self.maintain_pool)


class TaskPool(prefork.TaskPool):
    """Selected through `worker_pool`: what `--pool prefork` means here."""

    Pool = JobPool


def forks(pool: Any) -> bool:
    """Whether jobs run in processes that this one has forked."""
    return isinstance(pool, prefork.TaskPool)


def name(pool: Any) -> str:
    """As `--pool` calls it: prefork, threads, solo, …"""
    module = type(pool).__module__.rpartition(".")[2]
    return "prefork" if forks(pool) else {"thread": "threads"}.get(module, module)
