"""No-ops that lie in the queue already: how fast they go, and what each costs. Ours reports, stock does not.

All workers are up during a round and drain a slice each in turns, so that whatever else the machine does meets all
of them alike. Who is not draining is idle.
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.rig import machine_cpu, until
from bench.table import Bar, Figure, ratio_at_least, ratio_at_most
from bench.transport.bench import Bench
from bench.transport.sides import PREFORK, THREADS, Ours, Side

#: No-ops in one slice, and slices in one round: five seconds or more of either side.
_OURS = 3_000
_STOCK = 1_000
_SLICES = 6

#: Run before the clock starts, so that everything is loaded and connected.
_WARM = 500

#: How far stock Celery may fetch ahead, per process or thread: its default, and what suits it best.
_PREFETCH = ("4", "64")

#: More than this part of a core taken by strangers is worth a word.
_DISTURBED = 0.1


def prefork(bench: Bench) -> list[Figure]:
    """Two processes."""
    return _drain(bench, "prefork × 2", PREFORK, ratio_at_least(3), ratio_at_most(0.45))


def threads(bench: Bench) -> list[Figure]:
    """Eight threads."""
    return _drain(bench, "threads × 8", THREADS, ratio_at_least(3.5), ratio_at_most(0.35))


def _drain(bench: Bench, pool: str, options: Sequence[str], rate: Bar, cpu: Bar) -> list[Figure]:
    with contextlib.ExitStack() as started:
        ours = started.enter_context(bench.make_jobworker())
        ours.start_worker(options=options)
        stock = {f"prefetch {prefetch}": started.enter_context(bench.make_celery()) for prefetch in _PREFETCH}
        for prefetch, side in zip(_PREFETCH, stock.values(), strict=True):
            side.start_worker(options=[*options, "--prefetch-multiplier", prefetch])
        mine, theirs = _in_turns(ours, stock)
        _insist_on_ends(ours)
    return [
        Figure(f"drain, {pool}", "jobs/s", mine.compute_rate(), {how: used.compute_rate() for how, used in theirs.items()}, rate),
        _cost(f"worker CPU, {pool}", "worker", mine, theirs, cpu),
        _cost(f"Redis CPU, {pool}", "redis", mine, theirs, ratio_at_most(0.4)),
    ]


class _Used:
    """What the slices of one side took: jobs, seconds, and CPU seconds of each of its processes and of strangers."""

    def __init__(self) -> None:
        self.jobs = 0
        self.seconds = 0.0
        self.cpu: Counter[str] = Counter()

    def drain(self, side: Side, count: int) -> None:
        """One slice."""
        side.stage("noop", count)
        before, began = self._measure_cpu(side), time.perf_counter()
        side.release_staged()
        until(side.is_done, every=0.02, what="the no-ops")
        self.seconds += time.perf_counter() - began
        self.cpu.update({name: used - before[name] for name, used in self._measure_cpu(side).items()})
        self.jobs += count

    def compute_rate(self) -> float:
        return self.jobs / self.seconds

    def compute_cpu_per_job(self, name: str) -> float:
        """CPU in µs."""
        return self.cpu[name] / self.jobs * 1e6

    @staticmethod
    def _measure_cpu(side: Side) -> dict[str, float]:
        used = {name: tree.measure_cpu() for name, tree in side.usage.items()}
        return {**used, "strangers": machine_cpu() - sum(used.values()) - time.process_time()}


def _in_turns(ours: Ours, stock: Mapping[str, Side]) -> tuple[_Used, dict[str, _Used]]:
    for side in (ours, *stock.values()):
        _Used().drain(side, _WARM)
    mine, theirs = _Used(), {how: _Used() for how in stock}
    for _ in range(_SLICES):
        mine.drain(ours, _OURS)
        for how, side in stock.items():
            theirs[how].drain(side, _STOCK)
    for how, used in {"ours": mine, **theirs}.items():
        share = used.cpu["strangers"] / used.seconds
        if share > _DISTURBED:
            print(f"disturbed ({how}): other processes took {share:.2f} of a core", file=sys.stderr)
    return mine, theirs


def _cost(what: str, process: str, mine: _Used, theirs: Mapping[str, _Used], bar: Bar) -> Figure:
    stock = {how: used.compute_cpu_per_job(process) for how, used in theirs.items()}
    return Figure(what, "µs/job", mine.compute_cpu_per_job(process), stock, bar)


def _insist_on_ends(ours: Ours) -> None:
    """A drain counts only if each attempt was reported Running once and ended once."""
    expected = _WARM + _SLICES * _OURS
    kinds = Counter(fields["kind"] for fields in ours.read_events())
    if kinds != {"running": expected, "succeeded": expected}:
        raise RuntimeError(f"{expected} no-ops were reported as {dict(kinds)}")
