"""No-ops that lie in the queue already: how fast they go, and what each costs. Ours reports, stock does not."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bench.rig import until
from bench.table import Bar, Figure, ratio_at_least, ratio_at_most
from bench.transport.bench import Bench
from bench.transport.sides import PREFORK, THREADS, Ours, Side

#: Enough for about five seconds or more of either side.
_OURS = 15_000
_STOCK = 5_000

#: Run before the clock starts, so that everything is loaded and connected.
_WARM = 500

#: How far stock Celery may fetch ahead, per process or thread: its default, and what suits it best.
_PREFETCH = ("4", "64")


@dataclass(frozen=True, slots=True)
class Used:
    """Jobs per second, and CPU per job (µs) of the worker with its children and of Redis."""

    rate: float
    worker: float
    redis: float


def prefork(bench: Bench) -> list[Figure]:
    """Two processes."""
    return _drain(bench, "prefork × 2", PREFORK, ratio_at_least(3), ratio_at_most(0.45))


def threads(bench: Bench) -> list[Figure]:
    """Eight threads."""
    return _drain(bench, "threads × 8", THREADS, ratio_at_least(3.5), ratio_at_most(0.35))


def _drain(bench: Bench, pool: str, options: Sequence[str], rate: Bar, cpu: Bar) -> list[Figure]:
    with bench.ours() as ours:
        ours.worker(options=options)
        mine = _measure(ours, _OURS)
        _insist_on_ends(ours)
    theirs = {}
    for prefetch in _PREFETCH:
        with bench.stock() as stock:
            stock.worker(options=[*options, "--prefetch-multiplier", prefetch])
            theirs[f"prefetch {prefetch}"] = _measure(stock, _STOCK)
    return [
        Figure(f"drain, {pool}", "jobs/s", mine.rate, {how: used.rate for how, used in theirs.items()}, rate),
        Figure(f"worker CPU, {pool}", "µs/job", mine.worker, {how: used.worker for how, used in theirs.items()}, cpu),
        Figure(
            f"Redis CPU, {pool}", "µs/job", mine.redis, {how: used.redis for how, used in theirs.items()},
            ratio_at_most(0.4),
        ),
    ]  # fmt: skip


def _measure(side: Side, count: int) -> Used:
    side.stage("noop", _WARM)
    side.release()
    until(side.done, what="the no-ops that warm the worker up")
    side.stage("noop", count)
    cpu = {name: tree.cpu() for name, tree in side.trees.items()}
    side.release()
    began = time.perf_counter()
    until(side.done, every=0.05, what="the no-ops")
    took = time.perf_counter() - began
    used = {name: (tree.cpu() - cpu[name]) / count * 1e6 for name, tree in side.trees.items()}
    return Used(count / took, used["worker"], used["redis"])


def _insist_on_ends(ours: Ours) -> None:
    """A drain counts only if each attempt was reported Running once and ended once."""
    kinds = Counter(fields["kind"] for fields in ours.events())
    if kinds != {"running": _WARM + _OURS, "succeeded": _WARM + _OURS}:
        raise RuntimeError(f"{_WARM + _OURS} no-ops were reported as {dict(kinds)}")
