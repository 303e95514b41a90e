"""Command `python -m bench [system] …`: the available measures, and one table of their results."""

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.report import Measurement, Report
from bench.system import scenarios
from bench.system.hostile import measure_hostile_clients
from bench.system.systems import CeleryStack, JobWorkerStack


def main(arguments: Sequence[str]) -> None:
    """Run the chosen measures and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench system", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("measure", nargs="*", help=f"of {', '.join(_MEASURES)}; all but hostile by default")
    options = parser.parse_args(arguments)
    chosen = [_MEASURES[name] for name in options.measure or _DEFAULT_MEASURES]
    table = Report()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jobworker-bench-"))
        ours = stack.enter_context(JobWorkerStack(Path(folder, "ours")))
        bare = stack.enter_context(CeleryStack(Path(folder, "bare")))
        for _ in range(options.rounds):
            for measure in chosen:
                for figure in measure(ours, bare, options.jobs):
                    table.add(figure)
    table.print()


_MEASURES: dict[str, Callable[[JobWorkerStack, CeleryStack, int], list[Measurement]]] = {
    "memory": lambda ours, bare, _: scenarios.measure_memory(ours, bare),
    "latency": lambda ours, bare, _: scenarios.measure_latency(ours, bare, per_second=50, seconds=10),
    "submissions": lambda ours, bare, jobs: scenarios.measure_submissions(ours, bare, jobs // 2),
    "bulk": lambda ours, bare, jobs: scenarios.measure_bulk(ours, bare, min(jobs, 10_000)),
    "drain": scenarios.measure_drain,
    "flood": lambda ours, _bare, _jobs: scenarios.measure_flood(ours),
    "hostile": lambda ours, _bare, _jobs: measure_hostile_clients(ours),
}

#: Measures that run by default; `hostile` is excluded because it makes the database much larger.
_DEFAULT_MEASURES = [name for name in _MEASURES if name != "hostile"]
