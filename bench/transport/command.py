"""Command `python -m bench transport …`: the available measures, and one table of their results."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import probe
from bench.harness import Harness, get_redis_url
from bench.probe import JobProbe
from bench.report import Measurement, Report
from bench.transport import drain, idle, kill, latency, publish, recovery
from bench.transport.context import TransportContext

_MEASURES: dict[str, Callable[[TransportContext], list[Measurement]]] = {
    "drain-prefork": drain.measure_prefork,
    "drain-threads": drain.measure_threads,
    "publish": publish.measure_publish,
    "transport-latency": latency.measure_latency,
    "idle": idle.measure_idle,
    "recovery": recovery.measure_recovery,
    "kill": kill.measure_kills,
}

#: Measures that run in the first round only, because their 25 kills are enough.
_SINGLE_ROUND_MEASURES = frozenset({"kill"})


def main(arguments: Sequence[str]) -> None:
    """Run the chosen measures and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench transport", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of rounds, of which medians are printed; default %(default)s"
    )
    parser.add_argument(
        "--transport", choices=("batched", "stock"), default="batched", help="JOBWORKER_TRANSPORT of our side"
    )
    parser.add_argument("measure", nargs="*", metavar="measure", help=f"of {', '.join(_MEASURES)}; all by default")
    options = parser.parse_args(arguments)
    chosen = {name: _MEASURES[name] for name in options.measure or _MEASURES}
    table = Report()
    with tempfile.TemporaryDirectory(prefix="jobworker-bench-") as folder, Harness(Path(folder, "probe")) as rig:
        probe_redis = rig.start_redis("redis")
        environment = {probe.URL_VARIABLE: get_redis_url(probe_redis), "JOBWORKER_TRANSPORT": options.transport}
        context = TransportContext(Path(folder), JobProbe(probe_redis), environment)
        for number in range(options.rounds):
            for name, measure in chosen.items():
                if number == 0 or name not in _SINGLE_ROUND_MEASURES:
                    for figure in measure(context):
                        table.add(figure)
    table.print()
