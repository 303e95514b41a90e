"""What was measured, and the one table that every run ends with."""

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is asked to reach: the median over the rounds of something made of ours and stock's."""

    description: str
    compute: Callable[[float, float], float]
    limit: float
    higher_is_better: bool = False

    def is_reached(self, pairs: Iterable[tuple[float, float]]) -> bool:
        """Whether it is, by (ours, stock's) of each round."""
        value = statistics.median(self.compute(ours, stock) for ours, stock in pairs)
        return value >= self.limit if self.higher_is_better else value <= self.limit


def ratio_at_least(limit: float) -> Bar:
    """Ours must be so many times stock's, or more."""
    return Bar(f"≥ {limit:g} ×", _ratio, limit, higher_is_better=True)


def ratio_at_most(limit: float) -> Bar:
    """Ours must be this part of stock's, or less."""
    return Bar(f"≤ {limit:g} ×", _ratio, limit)


def above_stock_at_most(limit: float) -> Bar:
    """Ours may be so much more than stock's."""
    return Bar(f"≤ stock + {limit:g}", lambda ours, stock: ours - stock, limit)


def at_most(limit: float) -> Bar:
    """Ours must not be more, whatever stock does."""
    return Bar(f"≤ {limit:g}" if limit else "0", lambda ours, _: ours, limit)


def _ratio(ours: float, stock: float) -> float:
    return ours / stock


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured once. `stock` holds a value for each way in which stock Celery was run; none if it cannot."""

    name: str
    unit: str
    ours: float
    stock: Mapping[str, float] = field(default_factory=dict)
    target: Bar | None = None


class Table:
    """Collects figures and prints their medians."""

    def __init__(self) -> None:
        self._measurements: dict[str, list[Figure]] = {}

    def add(self, figure: Figure) -> None:
        """Keep a figure, and show on stderr how the run goes."""
        self._measurements.setdefault(figure.name, []).append(figure)
        stock = ", ".join(f"stock {how} {value:.2f}".replace("  ", " ") for how, value in figure.stock.items())
        print(f"{figure.name}: ours {figure.ours:.2f}, {stock or 'stock –'} {figure.unit}", file=sys.stderr, flush=True)

    def print(self) -> None:
        """One line for each thing measured, in markdown: medians of the rounds, and the median of their ratios."""
        print("| what | ours | stock | ratio | bar | unit |\n|---|---:|---:|---:|---|---|")
        for what, figures in self._measurements.items():
            print(f"| {what} | {' | '.join(_cells(figures))} |")


def _cells(figures: list[Figure]) -> list[str]:
    ours = statistics.median(figure.ours for figure in figures)
    how, stock = _best(figures) or ("", 0.0)
    pairs = [(figure.ours, figure.stock.get(how, 0.0)) for figure in figures]
    # Of each round, since both were measured in the same minutes.
    ratio = f"{statistics.median(mine / theirs for mine, theirs in pairs):.2f}" if stock else "–"
    told = f"{stock:.1f}{f' ({how})' if how else ''}" if figures[0].stock else "–"
    bar = figures[0].target
    judged = f"{bar.description}: {'reached' if bar.is_reached(pairs) else '**missed**'}" if bar else "–"
    return [f"{ours:.1f}", told, ratio, judged, figures[0].unit]


def _best(figures: list[Figure]) -> tuple[str, float] | None:
    """Of several ways to run stock Celery the one that does best here, so that nothing is gained by its settings."""
    medians = {how: statistics.median(figure.stock[how] for figure in figures) for how in figures[0].stock}
    if not medians:
        return None
    bar = figures[0].target
    best = max if bar and bar.higher_is_better else min
    return best(medians.items(), key=lambda pair: pair[1])
