"""Dead letters: open ones, their groups by failure, and the decisions about them."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions import dead_letter
from jobworker.domain.executions.dead_letter import DeadLetterCause, DeadLetterStatus
from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import unreadable_rows
from jobworker.store.executions.execution_filters import ExecutionFilters, build_conditions
from jobworker.store.pagination import DEFAULT_LIMIT, Page, Paginator, parse_id_key
from jobworker.store.tables import core

_executions = core.executions

#: Condition of open dead letters.
IS_OPEN = sa.text(core.OPEN_DEAD_LETTER)


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """Dead letter: a failed execution with the data needed for a decision about it."""

    id: str
    job: str
    job_revision: int
    task: str
    queue: str
    state: ExecutionState
    cause: DeadLetterCause
    reason: str | None
    error: Mapping[str, Any] | None
    fingerprint: str | None
    attempt: int
    max_attempts: int | None
    parameters: Mapping[str, Any]
    worker: str | None
    code_version: str | None
    correlation_id: str
    batch_id: str | None
    rerun_of: str | None
    created_at: dt.datetime
    finished_at: dt.datetime


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Open dead letters of one fingerprint: their number, the first and last end, and one example."""

    fingerprint: str
    count: int
    first_seen: dt.datetime
    last_seen: dt.datetime
    example: DeadLetterRow


_COLUMNS = [_executions.c[item.name] for item in fields(DeadLetterRow) if item.name != "cause"]


def list_page(
    connection: sa.Connection, filters: ExecutionFilters, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[DeadLetterRow]:
    """Return a page of open dead letters that pass the filters, latest submission first."""
    listing = Paginator("dead-letters", asdict(filters), parse_id_key)
    query = (
        sa.select(*_COLUMNS)
        .where(IS_OPEN, *build_conditions(filters))
        .order_by(_executions.c.id.desc())
        .limit(limit + 1)
    )
    after = listing.parse_cursor(cursor)
    if after is not None:
        query = query.where(_executions.c.id < after)
    rows = connection.execute(query).all()
    return listing.read_page(rows, limit, lambda row: row.id, _to_row, _describe_row)


def list_groups(connection: sa.Connection, limit: int = DEFAULT_LIMIT) -> list[DeadLetterGroup]:
    """Return the `limit` largest groups of open dead letters."""
    table = _executions.c
    number = sa.func.count()
    group_rows = connection.execute(
        sa.select(
            table.fingerprint,
            number,
            sa.func.min(table.finished_at),
            sa.func.max(table.finished_at),
            sa.func.max(table.id),
        )
        .where(IS_OPEN)
        .group_by(table.fingerprint)
        .order_by(number.desc(), table.fingerprint)
        .limit(limit)
    ).all()
    # An unreadable fingerprint or example is reported when it is listed; `/readyz` names it.
    readable = [row for row in group_rows if isinstance(row[0], str | None) and isinstance(row[4], str)]
    query = sa.select(*_COLUMNS).where(table.id.in_([row[4] for row in readable]))
    examples = {row.id: row for row in unreadable_rows.read_all(connection.execute(query), _to_row)}
    return [DeadLetterGroup(row[0], row[1], row[2], row[3], examples[row[4]]) for row in readable if row[4] in examples]


def lock_open(connection: sa.Connection, ids: Sequence[str]) -> set[str]:
    """Lock the open dead letters among `ids` until this transaction ends; return their ids."""
    return set(
        connection.scalars(sa.select(_executions.c.id).where(_executions.c.id.in_(ids), IS_OPEN).with_for_update())
    )


def close(
    connection: sa.Connection,
    ids: Sequence[str],
    new_state: DeadLetterStatus,
    actor: str,
    note: str | None,
    now: dt.datetime,
) -> set[str]:
    """Write the decision about these dead letters; return the ids of those that were open."""
    changed = connection.execute(
        _executions.update()
        .where(_executions.c.id.in_(ids), IS_OPEN)
        .values(dead_letter=new_state.value, dead_letter_at=now, dead_letter_by=actor, dead_letter_note=note)
        .returning(_executions.c.id)
    )
    return set(changed.scalars())


_JSON_CHECKS = {
    "parameters": unreadable_rows.is_object,
    "error": unreadable_rows.build_object_check(type=str, message=str),
}
_SHAPE = unreadable_rows.RowShape(_executions, _JSON_CHECKS, {"state": ExecutionState})


def _describe_row(row: Any) -> str:
    return f"dead letter {row.id}"


def _to_row(row: sa.Row[Any]) -> DeadLetterRow:
    values = unreadable_rows.repair_row(_describe_row(row), dict(row._mapping), _SHAPE)
    return DeadLetterRow(**values, cause=dead_letter.determine_cause(values["state"], values["error"]))
