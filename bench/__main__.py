"""`python -m bench [--rounds 3] [--jobs 5000] [measure …]`: medians of the rounds, ours and bare Celery in turns."""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import measures
from bench.measures import Figure
from bench.rig import Bare, Ours, running


def main() -> None:
    """Run the measures that were asked for and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("measure", nargs="*", help=f"of {', '.join(_MEASURES)}; all by default")
    wanted = parser.parse_args()
    chosen = {name: _MEASURES[name] for name in wanted.measure or _MEASURES}
    seen: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="jobworker-bench-") as folder:
        homes = [Path(folder, name) for name in ("ours", "bare")]
        for home in homes:
            home.mkdir()
        with running(Ours(homes[0])) as ours, running(Bare(homes[1])) as bare:
            for _ in range(wanted.rounds):
                for measure in chosen.values():
                    for figure in measure(ours, bare, wanted.jobs):
                        seen.setdefault(figure.what, []).append(figure)
    _print(seen)


_MEASURES: dict[str, Callable[[Ours, Bare, int], list[Figure]]] = {
    "memory": lambda ours, bare, _: measures.memory(ours, bare),
    "latency": lambda ours, bare, _: measures.latency(ours, bare, per_second=50, seconds=10),
    "submissions": lambda ours, bare, jobs: measures.submissions(ours, bare, jobs // 2),
    "bulk": lambda ours, bare, jobs: measures.bulk(ours, bare, min(jobs, 10_000)),
    "drain": measures.drain,
}


def _print(seen: dict[str, list[Figure]]) -> None:
    print("| what | ours | bare Celery | ratio | unit |\n|---|---:|---:|---:|---|")
    for what, figures in seen.items():
        ours = statistics.median(figure.ours for figure in figures)
        theirs = [figure.bare for figure in figures if figure.bare is not None]
        bare = statistics.median(theirs) if theirs else None
        told = f"{bare:.1f} | {ours / bare:.2f}" if bare else "– | –"
        print(f"| {what} | {ours:.1f} | {told} | {figures[0].unit} |")


if __name__ == "__main__":
    main()
