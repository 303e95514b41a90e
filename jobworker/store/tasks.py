"""Task catalog: the tasks that workers can run, for lookups by the API and the relay."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.jobs.parameters import Parameter
from jobworker.store import unreadable_rows
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_name_key
from jobworker.store.similar_names import list_nearby
from jobworker.store.tables import core

_tasks = core.tasks
_BY_NAME = sa.select(_tasks).where(_tasks.c.name == sa.bindparam("name"))


@dataclass(frozen=True, slots=True)
class TaskRow:
    """Task, as described by the worker that announced it last."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    options: Mapping[str, Any]
    code_version: str
    updated_at: dt.datetime
    #: Package imported by the worker that announced the task; None if no worker has announced it.
    package: str | None = None
    #: Time since which no worker declares the task; None if a worker declares it or this is unknown.
    removed_at: dt.datetime | None = None


def get(connection: sa.Connection, name: str) -> TaskRow | None:
    """Return the task with this name."""
    row = connection.execute(_BY_NAME, {"name": name}).one_or_none()
    return _to_row(row) if row is not None else None


def get_many(connection: sa.Connection, names: Sequence[str]) -> dict[str, TaskRow]:
    """Return the existing tasks among `names`, by name."""
    rows = connection.execute(sa.select(_tasks).where(_tasks.c.name.in_(names)))
    return {row.name: row for row in unreadable_rows.read_all(rows, _to_row)}


def list_names(connection: sa.Connection) -> list[str]:
    """Return the names of all tasks."""
    return list(connection.scalars(sa.select(_tasks.c.name).order_by(_tasks.c.name)))


def list_nearby_names(connection: sa.Connection, name: str) -> list[str]:
    """Return task names close to `name` in alphabetical order."""
    return list_nearby(connection, _tasks.c.name, name)


def list_page(connection: sa.Connection, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[TaskRow]:
    """Return a page of tasks, ordered by name."""
    listing = Paginator("tasks", {}, parse_name_key)
    query = sa.select(_tasks).order_by(_tasks.c.name).limit(limit + 1)
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(_tasks.c.name > after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.name, _to_row, _describe_row)


def list_announced_or_removed(connection: sa.Connection, packages: Collection[str]) -> list[TaskRow]:
    """Return the tasks that workers of these packages have announced, and all removed tasks."""
    query = sa.select(_tasks).where(_tasks.c.package.in_(packages) | _tasks.c.removed_at.is_not(None))
    return list(unreadable_rows.read_all(connection.execute(query), _to_row))


def mark_removed(connection: sa.Connection, names: Sequence[str], at: dt.datetime | None) -> None:
    """Mark these tasks as removed, because no worker declares them; with None, clear the mark."""
    connection.execute(_tasks.update().where(_tasks.c.name.in_(names)).values(removed_at=at))


def upsert(connection: sa.Connection, row: TaskRow) -> None:
    """Insert or replace a task."""
    values = {
        "description": row.description,
        "parameters": [parameter.to_json() for parameter in row.parameters],
        "options": dict(row.options),
        "code_version": row.code_version,
        "updated_at": row.updated_at,
        "package": row.package,
        "removed_at": row.removed_at,
    }
    changed = connection.execute(_tasks.update().where(_tasks.c.name == row.name).values(values))
    if changed.rowcount == 0:
        connection.execute(_tasks.insert().values(name=row.name, **values))


def _describe_row(row: Any) -> str:
    return f"task {row.name}"


def _make(row: sa.Row[Any]) -> TaskRow:
    if not isinstance(row.options, dict):
        raise TypeError("options are not an object")
    return TaskRow(
        name=row.name,
        description=row.description,
        parameters=tuple(Parameter.from_json(described) for described in row.parameters),
        options=row.options,
        code_version=row.code_version,
        updated_at=row.updated_at,
        package=row.package,
        removed_at=row.removed_at,
    )


_to_row = unreadable_rows.build_reader(_describe_row, _make, _tasks)
