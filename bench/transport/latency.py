"""Benchmark of the latency from published to running, at a steady rate below the capacity of the workers."""

import statistics
import time

from bench.harness import compute_p99, pace, wait_until
from bench.report import Measurement, expect_ratio_at_most
from bench.transport.context import TransportContext
from bench.transport.systems import TransportSystem

_JOBS_PER_SECOND = 50
_DURATION_SECONDS = 20


def measure_latency(bench: TransportContext) -> list[Measurement]:
    """Measure the time from before the message is created to the first line of the job's body."""
    with bench.make_jobworker() as ours:
        mine = _measure_system(bench, ours)
    with bench.make_celery() as stock:
        theirs = _measure_system(bench, stock)
    label = f"latency at {_JOBS_PER_SECOND}/s, publish → body"
    return [
        Measurement(
            f"{label}, p50", "ms", statistics.median(mine), {"": statistics.median(theirs)}, expect_ratio_at_most(1.1)
        ),
        Measurement(f"{label}, p99", "ms", compute_p99(mine), {"": compute_p99(theirs)}, expect_ratio_at_most(1.1)),
    ]


def _measure_system(bench: TransportContext, side: TransportSystem) -> list[float]:
    bench.probe.clear()
    side.start_worker()
    _send_stamps(side, 1)
    wait_until(lambda: bench.probe.count_arrivals() == _JOBS_PER_SECOND, what="the stamps that warm the worker up")
    bench.probe.clear()
    _send_stamps(side, _DURATION_SECONDS)
    wait_until(lambda: bench.probe.count_arrivals() == _JOBS_PER_SECOND * _DURATION_SECONDS, what="the stamps")
    return sorted(1e3 * seconds for seconds in bench.probe.get_latencies())


def _send_stamps(side: TransportSystem, seconds: int) -> None:
    for _ in pace(_JOBS_PER_SECOND, seconds):
        side.publish("stamp", [{"sent_at": time.time()}])
