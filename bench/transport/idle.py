"""What a worker costs that has nothing to do."""

import time

from bench.rig import Tree, until
from bench.table import Figure, above_stock_at_most
from bench.transport.bench import Bench
from bench.transport.sides import Side

_SECONDS = 20

#: Until start-up has passed and nothing is left to do (s).
_SETTLE = 8


def idle(bench: Bench) -> list[Figure]:
    """CPU and memory of both at the same time: neither keeps the other from anything."""
    with bench.make_jobworker() as ours, bench.make_celery() as stock:
        for side in (ours, stock):
            _warm(side)
        time.sleep(_SETTLE)
        trees = [ours.usage["worker"], stock.usage["worker"]]
        mine, theirs = _percent(trees)
        memory = [tree.measure_pss() for tree in trees]
    return [
        Figure("idle worker, CPU", "% of a core", mine, {"": theirs}, above_stock_at_most(0.5)),
        Figure("idle worker, memory (PSS)", "MiB", memory[0], {"": memory[1]}, above_stock_at_most(5)),
    ]


def _warm(side: Side) -> None:
    side.start_worker()
    side.stage("noop", 200)
    side.release_staged()
    until(side.is_done, what="the no-ops that warm the worker up")


def _percent(trees: list[Tree]) -> list[float]:
    before, began = [tree.measure_cpu() for tree in trees], time.perf_counter()
    time.sleep(_SECONDS)
    took = time.perf_counter() - began
    return [100 * (tree.measure_cpu() - used) / took for tree, used in zip(trees, before, strict=True)]
