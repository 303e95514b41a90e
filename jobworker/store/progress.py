"""What a running job says of itself: how far it is, and its metadata."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.execution import State
from jobworker.store import unreadable
from jobworker.store.bulk import Bulk
from jobworker.store.schema import executions


@dataclass(frozen=True, slots=True)
class Present:
    """What is stored of an execution, as far as it matters to what its job says."""

    state: State
    attempt: int
    progress: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None


def present(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Present]:
    """Return the executions with these ids; unknown ids, and what cannot be read, are absent."""
    columns = (executions.c[name] for name in ("id", "state", "attempt", "progress", "metadata"))
    query = sa.select(*columns).where(executions.c.id.in_(list(ids)))
    return dict(unreadable.those(connection.execute(query), _read))


def _present(row: sa.Row[Any]) -> tuple[str, Present]:
    return row.id, Present(State(row.state), row.attempt, row.progress, row._mapping["metadata"])


_read = unreadable.reader(lambda row: f"progress of execution {row.id}", _present, executions)


def save(connection: sa.Connection, changed: Mapping[str, Present]) -> None:
    """Write progress and metadata of these executions."""
    _SAVE.run(connection, ((key, row.progress, row.metadata) for key, row in changed.items()))


def _build_save(_dialect: str) -> Any:
    values = {name: sa.bindparam(f"new_{name}", type_=executions.c[name].type) for name in ("progress", "metadata")}
    return sa.update(executions).where(executions.c.id == sa.bindparam("key")).values(values)


_SAVE = Bulk(_build_save, ["key", "new_progress", "new_metadata"])
