"""Who comes before whom: the order, or the way round if there is none."""

import graphlib
from collections.abc import Iterable, Mapping


def find_cycle(predecessors: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Nodes that come before each other, the first again at the end; None: there is an order.

    `predecessors` names for each node those that come before it.
    """
    try:
        graphlib.TopologicalSorter(predecessors).prepare()
    except graphlib.CycleError as error:
        path: list[str] = error.args[1]
        return path
    return None


def sort_topologically(predecessors: Mapping[str, Iterable[str]]) -> list[str]:
    """The nodes, each after those that come before it; there must be no cycle."""
    return list(graphlib.TopologicalSorter(predecessors).static_order())
