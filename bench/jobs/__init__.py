"""The jobs that are measured, as JobWorker runs them. Stock Celery has the same in `transport/baseline.py`."""

import time

from bench import probe
from jobworker import Context, job


@job
def noop(number: int = 0) -> None:
    """Nothing."""


@job(concurrency={"limit": 1, "key": "{key}"})
def limited(key: int) -> None:
    """Nothing, but one at a time of each key."""


@job
def brief() -> None:
    """Keep a slot busy for a moment."""
    time.sleep(0.02)


@job
def stamp(sent_at: float) -> None:
    """Note how long this took to arrive."""
    probe.record_arrival(sent_at)


@job
def note(context: Context, number: int) -> None:  # noqa: ARG001  messages as long as those of the peer
    """Note that this started, and where."""
    probe.record_start(context.execution_id, context.attempt, context.worker)


@job
def hold(context: Context) -> None:
    """Note that this started, and keep the slot busy until the bench lets go."""
    probe.record_start(context.execution_id, context.attempt, context.worker)
    probe.wait_for_release()


@job
def floods(lines: int, length: int) -> None:
    """Print, as fast as it can."""
    for number in range(lines):
        print(f"{number:010} " + "x" * (length - 11))
