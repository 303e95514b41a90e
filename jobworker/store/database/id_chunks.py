"""Division of ids among statements: the number of variables of one statement is limited."""

from collections.abc import Iterable, Iterator, Sequence

#: Maximum number of ids in one IN list; SQLite allows 32,766 variables.
_CHUNK_SIZE = 5_000


def split_ids(ids: Iterable[str]) -> Iterator[Sequence[str]]:
    """Yield these ids, in order, as lists that each fit into one statement."""
    all_ids = list(ids)
    for start in range(0, len(all_ids), _CHUNK_SIZE):
        yield all_ids[start : start + _CHUNK_SIZE]
