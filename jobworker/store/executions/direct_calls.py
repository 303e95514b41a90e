"""Executions of direct calls, which reach a worker before they have a row."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.store.database.bulk_statements import BulkStatement
from jobworker.store.executions import executions
from jobworker.store.executions.executions import NewExecution
from jobworker.store.tables.core import executions as table


@dataclass(frozen=True, slots=True)
class DirectCallRow:
    """New execution of a direct call, with caller and time; `call` goes into the messages of further attempts."""

    execution: NewExecution
    by: str
    at: dt.datetime
    call: Mapping[str, Any] | None


def insert(connection: sa.Connection, rows: Sequence[DirectCallRow]) -> None:
    """Insert new direct calls as published, because a worker already has their first message."""
    for caller in sorted({row.by for row in rows}):
        caller_rows = [row for row in rows if row.by == caller]
        executions.insert(
            connection, [row.execution for row in caller_rows], caller, min(row.at for row in caller_rows)
        )
    _UPDATE_CALL.run(connection, ((row.execution.id, row.at, row.execution.priority, row.call) for row in rows))


def _build_call_update(_dialect: str) -> Any:
    at = sa.bindparam("at", type_=table.c.created_at.type)
    call = sa.bindparam("new_call", type_=table.c.call.type)
    values = {
        "created_at": at,
        "dispatched_at": at,
        "urgency": sa.bindparam("new_urgency", type_=sa.Integer),
        "call": call,
    }
    return sa.update(table).where(table.c.id == sa.bindparam("key")).values(values)


_UPDATE_CALL = BulkStatement(_build_call_update, ("key", "at", "new_urgency", "new_call"))
