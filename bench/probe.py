"""What jobs note down while they are measured, in a Redis that neither side uses as its broker."""

import json
import os
import threading
import time
from typing import Any, NamedTuple

import redis

#: Environment variable with the URL of that Redis; workers inherit it.
URL_VARIABLE = "BENCH_DIARY"

_ARRIVALS = "arrivals"
_STARTS = "starts"
_RELEASED = "released"

#: No job waits longer for its release (s).
_RELEASE_TIMEOUT_SECONDS = 120


class JobStart(NamedTuple):
    """One run of a job's body began."""

    execution: str
    attempt: int
    worker: str
    pid: int
    at: float


def record_arrival(sent_at: float) -> None:
    """For jobs: this was sent at `sent_at` and runs now."""
    _get_client().rpush(_ARRIVALS, time.time() - sent_at)


def record_start(execution: str, attempt: int, worker: str) -> None:
    """For jobs: the body of this attempt runs on this worker."""
    _get_client().rpush(_STARTS, json.dumps(JobStart(execution, attempt, worker, os.getpid(), time.time())))


def wait_for_release() -> None:
    """For jobs: wait until `Diary.release`."""
    deadline = time.monotonic() + _RELEASE_TIMEOUT_SECONDS
    while not _get_client().exists(_RELEASED) and time.monotonic() < deadline:
        time.sleep(0.05)


class JobProbe:
    """For the bench: reads what was noted."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def clear(self) -> None:
        """Begin a new page."""
        self._client.flushdb()

    def release_jobs(self) -> None:
        """Let go every job that waits for it."""
        self._client.set(_RELEASED, 1)

    def count_starts(self) -> int:
        """How many bodies began."""
        return int(self._client.llen(_STARTS))

    def get_starts(self) -> list[JobStart]:
        """Every beginning, in the order in which they were noted."""
        texts: Any = self._client.lrange(_STARTS, 0, -1)
        return [JobStart(*json.loads(text)) for text in texts]

    def count_arrivals(self) -> int:
        """How many arrivals were noted."""
        return int(self._client.llen(_ARRIVALS))

    def get_latencies(self) -> list[float]:
        """Seconds from sent to running, in the order in which they ran."""
        texts: Any = self._client.lrange(_ARRIVALS, 0, -1)
        return [float(text) for text in texts]


def _get_client() -> redis.Redis:
    global _connection
    with _connection_lock:
        if _connection is None:
            _connection = redis.Redis.from_url(os.environ[URL_VARIABLE])
    return _connection


# Opened by the first job of each process, so after the fork.
_connection: redis.Redis | None = None
_connection_lock = threading.Lock()
