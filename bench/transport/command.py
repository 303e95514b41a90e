"""`python -m bench transport …`: which measures there are, and one table of them."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import diary
from bench.diary import Diary
from bench.rig import Rig, url
from bench.table import Figure, Table
from bench.transport import drain, idle, kill, latency, publish, recovery
from bench.transport.bench import Bench

_MEASURES: dict[str, Callable[[Bench], list[Figure]]] = {
    "drain-prefork": drain.prefork,
    "drain-threads": drain.threads,
    "publish": publish.publish,
    "transport-latency": latency.latency,
    "idle": idle.idle,
    "recovery": recovery.recovery,
    "kill": kill.kill,
}

#: Taken once, however many rounds there are: 25 kills are rounds enough.
_ONCE = frozenset({"kill"})


def main(arguments: Sequence[str]) -> None:
    """Run the measures that were asked for and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench transport", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many; default %(default)s")
    parser.add_argument(
        "--transport", choices=("batched", "stock"), default="batched", help="JOBWORKER_TRANSPORT of our side"
    )
    parser.add_argument("measure", nargs="*", metavar="measure", help=f"of {', '.join(_MEASURES)}; all by default")
    wanted = parser.parse_args(arguments)
    chosen = {name: _MEASURES[name] for name in wanted.measure or _MEASURES}
    table = Table()
    with tempfile.TemporaryDirectory(prefix="jobworker-bench-") as folder, Rig(Path(folder, "diary")) as rig:
        notes = rig.start_redis("redis")
        environment = {diary.VARIABLE: url(notes), "JOBWORKER_TRANSPORT": wanted.transport}
        bench = Bench(Path(folder), Diary(notes), environment)
        for number in range(wanted.rounds):
            for name, measure in chosen.items():
                if number == 0 or name not in _ONCE:
                    for figure in measure(bench):
                        table.add(figure)
    table.print()
