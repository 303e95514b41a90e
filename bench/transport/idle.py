"""Benchmark of an idle worker."""

import time

from bench.harness import ProcessUsage, wait_until
from bench.report import Measurement, expect_excess_at_most
from bench.transport.context import TransportContext
from bench.transport.systems import TransportSystem

_DURATION_SECONDS = 20

#: Time (s) until the start is complete and the worker is idle.
_SETTLE_SECONDS = 8


def measure_idle(bench: TransportContext) -> list[Measurement]:
    """Measure CPU and memory of both systems at the same time, which is possible because neither disturbs the other."""
    with bench.make_jobworker() as ours, bench.make_celery() as stock:
        for side in (ours, stock):
            _warm_up(side)
        time.sleep(_SETTLE_SECONDS)
        trees = [ours.usage["worker"], stock.usage["worker"]]
        mine, theirs = _measure_cpu_percent(trees)
        memory = [tree.measure_pss() for tree in trees]
    return [
        Measurement("idle worker, CPU", "% of a core", mine, {"": theirs}, expect_excess_at_most(0.5)),
        Measurement("idle worker, memory (PSS)", "MiB", memory[0], {"": memory[1]}, expect_excess_at_most(5)),
    ]


def _warm_up(side: TransportSystem) -> None:
    side.start_worker()
    side.stage("noop", 200)
    side.release_staged()
    wait_until(side.is_done, what="the no-ops that warm the worker up")


def _measure_cpu_percent(trees: list[ProcessUsage]) -> list[float]:
    before, started_at = [tree.measure_cpu() for tree in trees], time.perf_counter()
    time.sleep(_DURATION_SECONDS)
    took = time.perf_counter() - started_at
    return [100 * (tree.measure_cpu() - used) / took for tree, used in zip(trees, before, strict=True)]
