"""A job and its length leave in one write; whatever the pipe takes, the bytes arrive whole and in order."""

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
    """Takes as many bytes as the next of `room` says; None: it is full."""

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
    """As Celery's pool does it: first the length, then the job, again while the pipe is full."""
    for part in (memoryview(struct.pack(">I", len(job))), memoryview(job)):
        done = 0
        while done < len(part):
            try:
                done += send(part, done)
            except BlockingIOError:
                continue


def test_length_and_job_are_one_write() -> None:
    pipe = FakePipe([])
    write_job(SingleWriteSender(pipe.send), b"job" * 100)
    assert (pipe.writes, pipe.taken) == (1, struct.pack(">I", 300) + b"job" * 100)


def test_a_large_job_is_not_copied() -> None:
    pipe = FakePipe([])
    write_job(SingleWriteSender(pipe.send), b"x" * 100_000)
    assert (pipe.writes, len(pipe.taken)) == (2, 100_004)


@given(
    jobs=st.lists(st.binary(min_size=5, max_size=50), min_size=1, max_size=5),
    room=st.lists(st.one_of(st.none(), st.integers(1, 30)), max_size=60),
)
def test_whatever_the_pipe_takes_everything_arrives_in_order(jobs: list[bytes], room: list[int | None]) -> None:
    pipe = FakePipe(room)
    send = SingleWriteSender(pipe.send)
    for job in jobs:
        write_job(send, job)
    assert pipe.taken == b"".join(struct.pack(">I", len(job)) + job for job in jobs)


@pytest.mark.parametrize("owner", [AsynPool, Pool])
def test_the_pool_makes_processes_where_we_expect_it(owner: type) -> None:
    """A name that Celery and billiard keep to themselves; `JobPool` stands on it."""
    assert "_create_worker_process" in vars(owner)
    assert "_create_worker_process" in vars(JobPool)


class FakeEventLoop:
    """Notes what it is asked to call later."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        self.later.append(callback)


def test_a_process_that_has_closed_its_pipe_is_looked_for_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipe may close before the system says that it is gone."""
    looked: list[Any] = []
    monkeypatch.setattr(AsynPool, "_untrack_child_process", lambda *_: None)
    monkeypatch.setattr(AsynPool, "maintain_pool", lambda pool: looked.extend([pool]))
    pool, loop = JobPool.__new__(JobPool), FakeEventLoop()
    pool._event_process_exit(loop, None)
    assert looked == [pool]
    for callback in loop.later:
        callback()
    assert looked == [pool, pool]
