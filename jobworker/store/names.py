"""Names that come close to one that does not exist."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

#: So many names are compared, half of them before and half after the wanted one: a few milliseconds.
FEW = 200


def around(connection: sa.Connection, column: sa.Column[Any], wanted: str) -> list[str]:
    """Return the names before and after `wanted` in order; all of them if there are fewer than `FEW`."""
    wanted = wanted.replace("\0", "")
    before = sa.select(column).where(column < wanted).order_by(column.desc()).limit(FEW)
    after = sa.select(column).where(column >= wanted).order_by(column).limit(FEW)
    below, above = (_texts(connection.scalars(query)) for query in (before, after))
    half = FEW // 2
    # One side leaves the other what it does not need.
    below = below[: max(half, FEW - len(above))]
    return [*reversed(below), *above[: FEW - len(below)]]


def _texts(names: Iterable[object]) -> list[str]:
    """Return those that are texts: a row whose name is none is found by no name."""
    return [name for name in names if isinstance(name, str)]
