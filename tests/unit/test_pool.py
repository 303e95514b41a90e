"""Writing of jobs to pool processes: length and job in one write, complete and ordered for any pipe capacity."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from billiard.pool import Pool
from celery.concurrency.asynpool import AsynPool
from hypothesis import given
from hypothesis import strategies as st

from jobworker.worker.celery.pool import JobPool, SingleWriteSender


class FakePipe:
    """A pipe that accepts the next number of `room` bytes per write; None: the pipe is full."""

    def __init__(self, room: list[int | None]) -> None:
        self.room = room
        self.taken = b""
        self.writes = 0

    def send(self, buffer: bytes, offset: int) -> int:
        room = self.room.pop(0) if self.room else len(buffer)
        if room is None:
            raise BlockingIOError
        self.writes += 1
        self.taken += bytes(buffer[offset : offset + room])
        return min(room, len(buffer) - offset)


def write_job(send: SingleWriteSender, job: bytes) -> None:
    """Write a job as Celery's pool does: first the length, then the job, repeated while the pipe is full."""
    for part in (memoryview(struct.pack(">I", len(job))), memoryview(job)):
        done = 0
        while done < len(part):
            try:
                done += send(part, done)
            except BlockingIOError:
                continue


def test_length_and_job_sent_in_one_write() -> None:
    pipe = FakePipe([])
    write_job(SingleWriteSender(pipe.send), b"job" * 100)
    assert (pipe.writes, pipe.taken) == (1, struct.pack(">I", 300) + b"job" * 100)


def test_large_job_sent_without_copy() -> None:
    pipe = FakePipe([])
    write_job(SingleWriteSender(pipe.send), b"x" * 100_000)
    assert (pipe.writes, len(pipe.taken)) == (2, 100_004)


@given(
    jobs=st.lists(st.binary(min_size=5, max_size=50), min_size=1, max_size=5),
    room=st.lists(st.one_of(st.none(), st.integers(1, 30)), max_size=60),
)
def test_jobs_arrive_in_order_with_partial_writes(jobs: list[bytes], room: list[int | None]) -> None:
    pipe = FakePipe(room)
    send = SingleWriteSender(pipe.send)
    for job in jobs:
        write_job(send, job)
    assert pipe.taken == b"".join(struct.pack(">I", len(job)) + job for job in jobs)


@pytest.mark.parametrize("owner", [AsynPool, Pool])
def test_pool_creates_processes_in_overridden_method(owner: type) -> None:
    """`JobPool` overrides this private method of Celery and billiard."""
    assert "_create_worker_process" in vars(owner)
    assert "_create_worker_process" in vars(JobPool)


class FakeEventLoop:
    """An event loop that records the callbacks of `call_later`."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.later.append(callback)


def test_pool_maintained_again_after_process_closes_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe of a process may close before the operating system reports the process as ended."""
    looked: list[Any] = []
    monkeypatch.setattr(AsynPool, "_untrack_child_process", lambda *_: None)
    monkeypatch.setattr(AsynPool, "maintain_pool", lambda pool: looked.extend([pool]))
    pool, loop = JobPool.__new__(JobPool), FakeEventLoop()
    pool._event_process_exit(loop, None)
    assert looked == [pool]
    for callback in loop.later:
        callback()
    assert looked == [pool, pool]
