"""Command `python -m bench scheduling …`: many schedules due at once, none due, and very many, against RedBeat."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.report import Measurement, Report
from bench.scheduling import rules, scenarios


def main(arguments: Sequence[str]) -> None:
    """Run the chosen measures, each on servers of its own, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench scheduling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--many", type=int, default=10_000, help="number of schedules of `burst` and `idle`")
    parser.add_argument("--stored", type=int, default=100_000, help="number of schedules of `stored`")
    parser.add_argument("measure", nargs="*", help=f"of {', '.join(_MEASURES)}; all by default")
    options = parser.parse_args(arguments)
    table = Report()
    with tempfile.TemporaryDirectory(prefix="jobworker-bench-") as folder:
        for number in range(options.rounds):
            for name in options.measure or _MEASURES:
                count = options.stored if name == "stored" else options.many
                for figure in _MEASURES[name](Path(folder, f"{name}-{number}"), count):
                    table.add(figure)
    table.print()


_MEASURES: dict[str, Callable[[Path, int], list[Measurement]]] = {
    "rules": lambda _folder, _count: rules.measure_rules(),
    "burst": scenarios.measure_burst,
    "idle": scenarios.measure_idle_tick,
    "stored": scenarios.measure_stored,
}
