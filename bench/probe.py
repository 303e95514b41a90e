"""Records that jobs write during a measurement, in a Redis that neither system uses as its broker."""

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

#: Maximum time (s) that a job waits for its release.
_RELEASE_TIMEOUT_SECONDS = 120


class JobStart(NamedTuple):
    """Start of a job's body."""

    execution: str
    attempt: int
    worker: str
    pid: int
    at: float


def record_arrival(sent_at: float) -> None:
    """Record, in a job, that its message was sent at `sent_at` and runs now."""
    _get_client().rpush(_ARRIVALS, time.time() - sent_at)


def record_start(execution: str, attempt: int, worker: str) -> None:
    """Record, in a job, the start of an attempt on a worker."""
    _get_client().rpush(_STARTS, json.dumps(JobStart(execution, attempt, worker, os.getpid(), time.time())))


def wait_for_release() -> None:
    """Wait, in a job, until `JobProbe.release_jobs` is called."""
    deadline = time.monotonic() + _RELEASE_TIMEOUT_SECONDS
    while not _get_client().exists(_RELEASED) and time.monotonic() < deadline:
        time.sleep(0.05)


class JobProbe:
    """Reader of the records, for the benchmark."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def clear(self) -> None:
        """Delete all records."""
        self._client.flushdb()

    def release_jobs(self) -> None:
        """Release all jobs in `wait_for_release`."""
        self._client.set(_RELEASED, 1)

    def count_starts(self) -> int:
        """Return the number of starts."""
        return int(self._client.llen(_STARTS))

    def get_starts(self) -> list[JobStart]:
        """Return all starts in the order of their records."""
        texts: Any = self._client.lrange(_STARTS, 0, -1)
        return [JobStart(*json.loads(text)) for text in texts]

    def count_arrivals(self) -> int:
        """Return the number of arrivals."""
        return int(self._client.llen(_ARRIVALS))

    def get_latencies(self) -> list[float]:
        """Return the times (s) from sent to running, in the order in which the jobs ran."""
        texts: Any = self._client.lrange(_ARRIVALS, 0, -1)
        return [float(text) for text in texts]


def _get_client() -> redis.Redis:
    global _connection
    with _connection_lock:
        if _connection is None:
            _connection = redis.Redis.from_url(os.environ[URL_VARIABLE])
    return _connection


# Opened by the first job of each process, and therefore after the fork.
_connection: redis.Redis | None = None
_connection_lock = threading.Lock()
