"""Names that come close to one that does not exist."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

#: So many names are compared, half of them before and half after the wanted one: a few milliseconds.
MAX_NAMES = 200


def list_nearby(connection: sa.Connection, column: sa.Column[Any], name: str) -> list[str]:
    """Return the names before and after `name` in order; all of them if there are fewer than `FEW`."""
    name = name.replace("\0", "")
    before = sa.select(column).where(column < name).order_by(column.desc()).limit(MAX_NAMES)
    after = sa.select(column).where(column >= name).order_by(column).limit(MAX_NAMES)
    below, above = (_filter_strings(connection.scalars(query)) for query in (before, after))
    half = MAX_NAMES // 2
    # One side leaves the other what it does not need.
    below = below[: max(half, MAX_NAMES - len(above))]
    return [*reversed(below), *above[: MAX_NAMES - len(below)]]


def _filter_strings(names: Iterable[object]) -> list[str]:
    """Return those that are texts: a row whose name is none is found by no name."""
    return [name for name in names if isinstance(name, str)]
