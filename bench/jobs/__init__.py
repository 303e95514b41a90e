"""Jobs of the benchmarks for JobWorker. `transport/baseline.py` has their counterparts for stock Celery."""

import time

from bench import probe
from jobworker import Context, job


@job
def noop(number: int = 0) -> None:
    """Do nothing."""


@job(concurrency={"limit": 1, "key": "{key}"})
def limited(key: int) -> None:
    """Do nothing, with a concurrency limit of one for each key."""


@job
def brief() -> None:
    """Keep a slot busy for a moment."""
    time.sleep(0.02)


@job
def stamp(sent_at: float) -> None:
    """Record the latency of this message."""
    probe.record_arrival(sent_at)


@job
def note(context: Context, number: int) -> None:  # noqa: ARG001  for messages of the length of the peer's
    """Record the start of this execution and its worker."""
    probe.record_start(context.execution_id, context.attempt, context.worker)


@job
def hold(context: Context) -> None:
    """Record the start of this execution and run until the benchmark releases it."""
    probe.record_start(context.execution_id, context.attempt, context.worker)
    probe.wait_for_release()


@job
def floods(lines: int, length: int) -> None:
    """Print lines as fast as possible."""
    for number in range(lines):
        print(f"{number:010} " + "x" * (length - 11))
