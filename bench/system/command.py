"""`python -m bench [system] …`: which measures there are, and one table of them."""

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.system import measures
from bench.system.hostile import hostile
from bench.system.sides import Bare, Ours
from bench.table import Figure, Table


def main(arguments: Sequence[str]) -> None:
    """Run the measures that were asked for and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench system", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("measure", nargs="*", help=f"of {', '.join(_MEASURES)}; all but hostile by default")
    wanted = parser.parse_args(arguments)
    chosen = [_MEASURES[name] for name in wanted.measure or _BY_DEFAULT]
    table = Table()
    with contextlib.ExitStack() as started:
        folder = started.enter_context(tempfile.TemporaryDirectory(prefix="jobworker-bench-"))
        ours = started.enter_context(Ours(Path(folder, "ours")))
        bare = started.enter_context(Bare(Path(folder, "bare")))
        for _ in range(wanted.rounds):
            for measure in chosen:
                for figure in measure(ours, bare, wanted.jobs):
                    table.add(figure)
    table.print()


_MEASURES: dict[str, Callable[[Ours, Bare, int], list[Figure]]] = {
    "memory": lambda ours, bare, _: measures.memory(ours, bare),
    "latency": lambda ours, bare, _: measures.latency(ours, bare, per_second=50, seconds=10),
    "submissions": lambda ours, bare, jobs: measures.submissions(ours, bare, jobs // 2),
    "bulk": lambda ours, bare, jobs: measures.bulk(ours, bare, min(jobs, 10_000)),
    "drain": measures.drain,
    "flood": lambda ours, _bare, _jobs: measures.flood(ours),
    "hostile": lambda ours, _bare, _jobs: hostile(ours),
}

#: The others leave the database as small as it was.
_BY_DEFAULT = [name for name in _MEASURES if name != "hostile"]
