"""Pages of revisions of jobs, schedules and calendars."""

from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from jobworker.store.pagination import Page, Paginator

Revision = TypeVar("Revision")


def list_page(
    connection: sa.Connection,
    listing: Paginator[int],
    query: sa.Select[Any],
    make: Callable[[sa.Row[Any]], Revision],
    limit: int,
    cursor: str | None,
    describe: Callable[[Any], str],
) -> Page[Revision]:
    """Return a page of the rows of `query`, which selects a column `revision`, latest first."""
    number = query.selected_columns["revision"]
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(number < after)
    rows = list(connection.execute(query.order_by(number.desc()).limit(limit + 1)))
    return listing.read_page(rows, limit, lambda row: str(row.revision), make, describe)
