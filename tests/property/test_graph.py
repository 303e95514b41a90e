"""Topological order and cycles of arbitrary dependency graphs."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from jobworker.domain.workflows import graph

NAMES = st.sampled_from("abcdefgh")
GRAPHS = st.dictionaries(NAMES, st.lists(NAMES, unique=True, max_size=4))


@given(GRAPHS)
def test_graph_has_topological_order_or_real_cycle(before: dict[str, list[str]]) -> None:
    path = graph.find_cycle(before)
    if path is None:
        order = graph.sort_topologically(before)
        place = {name: at for at, name in enumerate(order)}
        assert len(place) == len(order)
        assert all(place[first] < place[name] for name, needed in before.items() for first in needed)
        return
    assert path[0] == path[-1]
    assert len(set(path)) == len(path) - 1
    # Each name on the path is a dependency of the next.
    assert all(first in before[then] for first, then in itertools.pairwise(path))


@given(GRAPHS)
def test_graph_with_only_forward_edges_has_no_cycle(before: dict[str, list[str]]) -> None:
    forward = {name: [dependency for dependency in needed if dependency < name] for name, needed in before.items()}
    assert graph.find_cycle(forward) is None
