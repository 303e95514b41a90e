"""Directed graphs of names: topological order and cycles."""

import graphlib
from collections.abc import Iterable, Mapping


def find_cycle(predecessors: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Return a cycle, with its first node repeated at the end; None if there is an order.

    `predecessors` maps each node to its predecessors.
    """
    try:
        graphlib.TopologicalSorter(predecessors).prepare()
    except graphlib.CycleError as error:
        path: list[str] = error.args[1]
        return path
    return None


def sort_topologically(predecessors: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the nodes, each after its predecessors; there must be no cycle."""
    return list(graphlib.TopologicalSorter(predecessors).static_order())
