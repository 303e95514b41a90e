"""Measurements, their targets, and the table that every run prints at its end."""

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Target:
    """Target of a measurement: a limit for the median over the rounds of a value computed from (ours, stock)."""

    description: str
    compute: Callable[[float, float], float]
    limit: float
    higher_is_better: bool = False

    def is_reached(self, pairs: Iterable[tuple[float, float]]) -> bool:
        """Return whether the target is reached, given (ours, stock) of each round."""
        value = statistics.median(self.compute(ours, stock) for ours, stock in pairs)
        return value >= self.limit if self.higher_is_better else value <= self.limit


def expect_ratio_at_least(limit: float) -> Target:
    """Return a target for a minimum ratio of ours to stock."""
    return Target(f"≥ {limit:g} ×", _compute_ratio, limit, higher_is_better=True)


def expect_ratio_at_most(limit: float) -> Target:
    """Return a target for a maximum ratio of ours to stock."""
    return Target(f"≤ {limit:g} ×", _compute_ratio, limit)


def expect_excess_at_most(limit: float) -> Target:
    """Return a target for a maximum difference of ours from stock."""
    return Target(f"≤ stock + {limit:g}", lambda ours, stock: ours - stock, limit)


def expect_at_most(limit: float) -> Target:
    """Return a target for a maximum of ours, independent of stock."""
    return Target(f"≤ {limit:g}" if limit else "0", lambda ours, _: ours, limit)


def _compute_ratio(ours: float, stock: float) -> float:
    return ours / stock


@dataclass(frozen=True, slots=True)
class Measurement:
    """Measurement of one round. `stock` has a value for each configuration of stock Celery, or is empty."""

    name: str
    unit: str
    ours: float
    stock: Mapping[str, float] = field(default_factory=dict)
    target: Target | None = None


class Report:
    """Collection of measurements, printed as a table of medians."""

    def __init__(self) -> None:
        self._measurements: dict[str, list[Measurement]] = {}

    def add(self, measurement: Measurement) -> None:
        """Add a measurement and print it to stderr as progress."""
        self._measurements.setdefault(measurement.name, []).append(measurement)
        stock = ", ".join(f"stock {how} {value:.2f}".replace("  ", " ") for how, value in measurement.stock.items())
        print(
            f"{measurement.name}: ours {measurement.ours:.2f}, {stock or 'stock –'} {measurement.unit}",
            file=sys.stderr,
            flush=True,
        )

    def print(self) -> None:
        """Print a Markdown table of the medians over the rounds and the medians of their ratios."""
        print("| what | ours | stock | ratio | target | unit |\n|---|---:|---:|---:|---|---|")
        for label, measurements in self._measurements.items():
            print(f"| {label} | {' | '.join(_format_cells(measurements))} |")


def _format_cells(measurements: list[Measurement]) -> list[str]:
    ours = statistics.median(figure.ours for figure in measurements)
    how, stock = _choose_best_baseline(measurements) or ("", 0.0)
    pairs = [(figure.ours, figure.stock.get(how, 0.0)) for figure in measurements]
    # The ratio is computed for each round, because both sides were measured in the same minutes.
    ratio = f"{statistics.median(mine / theirs for mine, theirs in pairs):.2f}" if stock else "–"
    baseline_text = f"{stock:.1f}{f' ({how})' if how else ''}" if measurements[0].stock else "–"
    target = measurements[0].target
    verdict = f"{target.description}: {'reached' if target.is_reached(pairs) else '**missed**'}" if target else "–"
    return [f"{ours:.1f}", baseline_text, ratio, verdict, measurements[0].unit]


def _choose_best_baseline(measurements: list[Measurement]) -> tuple[str, float] | None:
    """Return the best configuration of stock Celery and its median, so that its settings are no advantage for ours."""
    medians = {how: statistics.median(figure.stock[how] for figure in measurements) for how in measurements[0].stock}
    if not medians:
        return None
    target = measurements[0].target
    choose = max if target and target.higher_is_better else min
    return choose(medians.items(), key=lambda pair: pair[1])
