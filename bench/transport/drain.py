"""Benchmark of draining queued no-ops: rate, and CPU of each. JobWorker reports attempts, stock Celery does not.

All workers are up during a round and drain one slice each in turns, so that other load on the machine affects all of
them alike. Workers that do not drain are idle.
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.harness import measure_machine_cpu, wait_until
from bench.report import Measurement, Target, expect_ratio_at_least, expect_ratio_at_most
from bench.transport.context import TransportContext
from bench.transport.systems import PREFORK, THREADS, JobWorkerTransport, TransportSystem

#: No-ops per slice, and slices per round: five seconds or more for either system.
_JOBWORKER_SLICE_SIZE = 3_000
_CELERY_SLICE_SIZE = 1_000
_SLICE_COUNT = 6

#: Number of no-ops before the measurement, so that all code is loaded and connections are open.
_WARM_UP_JOBS = 500

#: Prefetch multipliers of stock Celery, per process or thread: its default, and its best value.
_PREFETCH_MULTIPLIERS = ("4", "64")

#: Share of a core used by other processes above which a warning is printed.
_MAX_FOREIGN_CPU_SHARE = 0.1


def measure_prefork(bench: TransportContext) -> list[Measurement]:
    """Measure the drain with two processes."""
    return _measure_drain(bench, "prefork × 2", PREFORK, expect_ratio_at_least(3), expect_ratio_at_most(0.45))


def measure_threads(bench: TransportContext) -> list[Measurement]:
    """Measure the drain with eight threads."""
    return _measure_drain(bench, "threads × 8", THREADS, expect_ratio_at_least(3.5), expect_ratio_at_most(0.35))


def _measure_drain(
    bench: TransportContext, pool: str, options: Sequence[str], rate: Target, cpu: Target
) -> list[Measurement]:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(bench.make_jobworker())
        ours.start_worker(options=options)
        stock = {f"prefetch {prefetch}": stack.enter_context(bench.make_celery()) for prefetch in _PREFETCH_MULTIPLIERS}
        for prefetch, side in zip(_PREFETCH_MULTIPLIERS, stock.values(), strict=True):
            side.start_worker(options=[*options, "--prefetch-multiplier", prefetch])
        mine, theirs = _drain_in_turns(ours, stock)
        _check_reported_ends(ours)
    return [
        Measurement(
            f"drain, {pool}",
            "jobs/s",
            mine.compute_rate(),
            {how: used.compute_rate() for how, used in theirs.items()},
            rate,
        ),
        _make_cost_measurement(f"worker CPU, {pool}", "worker", mine, theirs, cpu),
        _make_cost_measurement(f"Redis CPU, {pool}", "redis", mine, theirs, expect_ratio_at_most(0.4)),
    ]


class _DrainUsage:
    """Usage of the slices of one system: jobs, time (s), and CPU time (s) of each of its processes and of others."""

    def __init__(self) -> None:
        self.jobs = 0
        self.seconds = 0.0
        self.cpu: Counter[str] = Counter()

    def drain(self, side: TransportSystem, count: int) -> None:
        """Drain one slice."""
        side.stage("noop", count)
        before, began = self._measure_cpu(side), time.perf_counter()
        side.release_staged()
        wait_until(side.is_done, every=0.02, what="the no-ops")
        self.seconds += time.perf_counter() - began
        self.cpu.update({name: used - before[name] for name, used in self._measure_cpu(side).items()})
        self.jobs += count

    def compute_rate(self) -> float:
        return self.jobs / self.seconds

    def compute_cpu_per_job(self, name: str) -> float:
        """Return the CPU time per job (µs)."""
        return self.cpu[name] / self.jobs * 1e6

    @staticmethod
    def _measure_cpu(side: TransportSystem) -> dict[str, float]:
        used = {name: tree.measure_cpu() for name, tree in side.usage.items()}
        return {**used, "strangers": measure_machine_cpu() - sum(used.values()) - time.process_time()}


def _drain_in_turns(
    ours: JobWorkerTransport, stock: Mapping[str, TransportSystem]
) -> tuple[_DrainUsage, dict[str, _DrainUsage]]:
    for side in (ours, *stock.values()):
        _DrainUsage().drain(side, _WARM_UP_JOBS)
    mine, theirs = _DrainUsage(), {how: _DrainUsage() for how in stock}
    for _ in range(_SLICE_COUNT):
        mine.drain(ours, _JOBWORKER_SLICE_SIZE)
        for how, side in stock.items():
            theirs[how].drain(side, _CELERY_SLICE_SIZE)
    for how, used in {"ours": mine, **theirs}.items():
        share = used.cpu["strangers"] / used.seconds
        if share > _MAX_FOREIGN_CPU_SHARE:
            print(f"disturbed ({how}): other processes took {share:.2f} of a core", file=sys.stderr)
    return mine, theirs


def _make_cost_measurement(
    label: str, process: str, mine: _DrainUsage, theirs: Mapping[str, _DrainUsage], target: Target
) -> Measurement:
    stock = {how: used.compute_cpu_per_job(process) for how, used in theirs.items()}
    return Measurement(label, "µs/job", mine.compute_cpu_per_job(process), stock, target)


def _check_reported_ends(ours: JobWorkerTransport) -> None:
    """Raise `RuntimeError` unless each attempt was reported as running once and as succeeded once."""
    expected = _WARM_UP_JOBS + _SLICE_COUNT * _JOBWORKER_SLICE_SIZE
    kinds = Counter(fields["kind"] for fields in ours.read_events())
    if kinds != {"running": expected, "succeeded": expected}:
        raise RuntimeError(f"{expected} no-ops were reported as {dict(kinds)}")
