"""Progress and metadata reported by running jobs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.tables.core import executions


@dataclass(frozen=True, slots=True)
class ExecutionProgress:
    """Stored progress and metadata of an execution, with its state and attempt."""

    state: ExecutionState
    attempt: int
    progress: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None


def get_many(connection: sa.Connection, ids: Iterable[str]) -> dict[str, ExecutionProgress]:
    """Return the executions with these ids, by id, without unknown and unreadable ones."""
    columns = (executions.c[name] for name in ("id", "state", "attempt", "progress", "metadata"))
    query = sa.select(*columns).where(executions.c.id.in_(list(ids)))
    return dict(unreadable_rows.read_all(connection.execute(query), _read))


def _to_item(row: sa.Row[Any]) -> tuple[str, ExecutionProgress]:
    return row.id, ExecutionProgress(ExecutionState(row.state), row.attempt, row.progress, row._mapping["metadata"])


_read = unreadable_rows.build_reader(lambda row: f"progress of execution {row.id}", _to_item, executions)


def update(connection: sa.Connection, changed: Mapping[str, ExecutionProgress]) -> None:
    """Write progress and metadata of these executions."""
    _UPDATE.run(connection, ((key, row.progress, row.metadata) for key, row in changed.items()))


def _build_update(_dialect: str) -> Any:
    values = {name: sa.bindparam(f"new_{name}", type_=executions.c[name].type) for name in ("progress", "metadata")}
    return sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(values)


_UPDATE = BulkStatement(_build_update, ["key", "new_progress", "new_metadata"])
