"""What was measured, and the one table that every run ends with."""

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure is asked to reach, as a function of ours and stock's, and in words."""

    words: str
    reached: Callable[[float, float], bool]
    more_is_better: bool = False


def ratio_at_least(limit: float) -> Bar:
    """Ours must be so many times stock's, or more."""
    return Bar(f"≥ {limit:g} ×", lambda ours, stock: ours >= limit * stock, more_is_better=True)


def ratio_at_most(limit: float) -> Bar:
    """Ours must be this part of stock's, or less."""
    return Bar(f"≤ {limit:g} ×", lambda ours, stock: ours <= limit * stock)


def above_stock_at_most(limit: float) -> Bar:
    """Ours may be so much more than stock's."""
    return Bar(f"≤ stock + {limit:g}", lambda ours, stock: ours <= stock + limit)


def at_most(limit: float) -> Bar:
    """Ours must not be more, whatever stock does."""
    return Bar(f"≤ {limit:g}" if limit else "0", lambda ours, _: ours <= limit)


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured once. `stock` holds a value for each way in which stock Celery was run; none if it cannot."""

    what: str
    unit: str
    ours: float
    stock: Mapping[str, float] = field(default_factory=dict)
    bar: Bar | None = None


class Table:
    """Collects figures and prints their medians."""

    def __init__(self) -> None:
        self._figures: dict[str, list[Figure]] = {}

    def add(self, figure: Figure) -> None:
        """Keep a figure, and show on stderr how the run goes."""
        self._figures.setdefault(figure.what, []).append(figure)
        stock = ", ".join(f"stock {how} {value:.2f}".replace("  ", " ") for how, value in figure.stock.items())
        print(f"{figure.what}: ours {figure.ours:.2f}, {stock or 'stock –'} {figure.unit}", file=sys.stderr, flush=True)

    def print(self) -> None:
        """One line for each thing measured, in markdown."""
        print("| what | ours | stock | ratio | bar | unit |\n|---|---:|---:|---:|---|---|")
        for what, figures in self._figures.items():
            print(f"| {what} | {' | '.join(_cells(figures))} |")


def _cells(figures: list[Figure]) -> list[str]:
    ours = statistics.median(figure.ours for figure in figures)
    unit, bar = figures[0].unit, figures[0].bar
    stock = _best(figures)
    told = f"{stock[1]:.1f}{f' ({stock[0]})' if stock[0] else ''}" if stock else "–"
    ratio = f"{ours / stock[1]:.2f}" if stock and stock[1] else "–"
    return [f"{ours:.1f}", told, ratio, _judged(bar, ours, stock[1] if stock else 0.0), unit]


def _best(figures: list[Figure]) -> tuple[str, float] | None:
    """Of several ways to run stock Celery the one that does best here, so that nothing is gained by its settings."""
    medians = {how: statistics.median(figure.stock[how] for figure in figures) for how in figures[0].stock}
    if not medians:
        return None
    bar = figures[0].bar
    best = max if bar and bar.more_is_better else min
    return best(medians.items(), key=lambda pair: pair[1])


def _judged(bar: Bar | None, ours: float, stock: float) -> str:
    if bar is None:
        return "–"
    return f"{bar.words}: {'reached' if bar.reached(ours, stock) else '**missed**'}"
