"""Names close to a name that does not exist."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

#: Maximum number of names compared, half of them before and half after the requested name: a few milliseconds.
MAX_NAMES = 200


def list_nearby(connection: sa.Connection, column: sa.Column[Any], name: str) -> list[str]:
    """Return the names before and after `name` in order; all names if there are fewer than `MAX_NAMES`."""
    name = name.replace("\0", "")
    before = sa.select(column).where(column < name).order_by(column.desc()).limit(MAX_NAMES)
    after = sa.select(column).where(column >= name).order_by(column).limit(MAX_NAMES)
    below, above = (_filter_strings(connection.scalars(query)) for query in (before, after))
    half = MAX_NAMES // 2
    # If one side has fewer names than its half, the other side gets the remainder.
    below = below[: max(half, MAX_NAMES - len(above))]
    return [*reversed(below), *above[: MAX_NAMES - len(below)]]


def _filter_strings(names: Iterable[object]) -> list[str]:
    """Return the strings among `names`, because a row whose name is not a string cannot be looked up by name."""
    return [name for name in names if isinstance(name, str)]
