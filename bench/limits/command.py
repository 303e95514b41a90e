"""Command `python -m bench limits …`: cost of limits in the relay, and latency of urgent executions.

Stock Celery has no counterpart of either.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.limits import scenarios
from bench.report import Measurement, Report


def main(arguments: Sequence[str]) -> None:
    """Run the chosen measures, each on servers of its own, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench limits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("measure", nargs="*", help=f"of {', '.join(_MEASURES)}; all by default")
    options = parser.parse_args(arguments)
    table = Report()
    with tempfile.TemporaryDirectory(prefix="jobworker-bench-") as folder:
        for number in range(options.rounds):
            for name in options.measure or _MEASURES:
                for figure in _MEASURES[name](Path(folder, f"{name}-{number}")):
                    table.add(figure)
    table.print()


_MEASURES: dict[str, Callable[[Path], list[Measurement]]] = {
    "gates": scenarios.measure_limit_cost,
    "rounds": scenarios.measure_blocked_rounds,
    "urgent": scenarios.measure_urgent_latency,
}
