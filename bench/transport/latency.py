"""From published to running at a steady rate, when there is room."""

import statistics
import time

from bench.rig import p99, paced, until
from bench.table import Figure, ratio_at_most
from bench.transport.bench import Bench
from bench.transport.sides import Side

_PER_SECOND = 50
_SECONDS = 20


def latency(bench: Bench) -> list[Figure]:
    """The time from before the message is made to the first line of the job's body."""
    with bench.make_jobworker() as ours:
        mine = _measure(bench, ours)
    with bench.make_celery() as stock:
        theirs = _measure(bench, stock)
    what = f"latency at {_PER_SECOND}/s, publish → body"
    return [
        Figure(f"{what}, p50", "ms", statistics.median(mine), {"": statistics.median(theirs)}, ratio_at_most(1.1)),
        Figure(f"{what}, p99", "ms", p99(mine), {"": p99(theirs)}, ratio_at_most(1.1)),
    ]


def _measure(bench: Bench, side: Side) -> list[float]:
    bench.probe.clear()
    side.start_worker()
    _send(side, 1)
    until(lambda: bench.probe.count_arrivals() == _PER_SECOND, what="the stamps that warm the worker up")
    bench.probe.clear()
    _send(side, _SECONDS)
    until(lambda: bench.probe.count_arrivals() == _PER_SECOND * _SECONDS, what="the stamps")
    return sorted(1e3 * seconds for seconds in bench.probe.get_latencies())


def _send(side: Side, seconds: int) -> None:
    for _ in paced(_PER_SECOND, seconds):
        side.publish("stamp", [{"sent_at": time.time()}])
