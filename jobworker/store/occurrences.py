"""The ledger: what became of each occurrence of a schedule. Its key is what makes an occurrence happen once."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.settling import Outcome
from jobworker.store import bulk
from jobworker.store.bulk import Bulk
from jobworker.store.schema import occurrences

#: Most ids in one IN list; SQLite allows 32,766 variables.
_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A row of the ledger."""

    schedule_id: str
    scheduled_for: dt.datetime
    outcome: str
    reason: str | None
    execution_id: str | None
    recorded_at: dt.datetime


def enter(connection: sa.Connection, rows: Sequence[Occurrence]) -> set[str]:
    """Enter what became of occurrences; those that had been entered already stay as they are.

    Answers the executions of `rows` that must not be: another one stands for their occurrence.
    """
    entered = _INSERT.run(connection, map(_values, rows))
    if entered == len(rows):
        return set()
    wanted = {row.execution_id for row in rows if row.execution_id}
    schedules = sorted({row.schedule_id for row in rows})
    between = min(row.scheduled_for for row in rows), max(row.scheduled_for for row in rows)
    for start in range(0, len(schedules), _CHUNK):
        query = sa.select(occurrences.c.execution_id).where(
            occurrences.c.schedule_id.in_(schedules[start : start + _CHUNK]),
            occurrences.c.scheduled_for.between(*between),
        )
        wanted -= set(connection.scalars(query))
    return wanted


def held_up(connection: sa.Connection, schedule_id: str, since: dt.datetime, limit: int) -> list[dt.datetime]:
    """The latest nominal times from `since` on that a pause held up, at most `limit`, ascending."""
    mine = occurrences.c.schedule_id == schedule_id, occurrences.c.scheduled_for >= since
    query = (
        sa.select(occurrences.c.scheduled_for)
        .where(*mine, occurrences.c.outcome == Outcome.SKIPPED_PAUSED.value)
        .order_by(occurrences.c.scheduled_for.desc())
        .limit(limit)
    )
    return sorted(connection.scalars(query))


def change(connection: sa.Connection, rows: Sequence[Occurrence]) -> None:
    """Write down what has become of these occurrences after all."""
    _CHANGE.run(connection, map(_values, rows))


def _values(row: Occurrence) -> tuple[object, ...]:
    return row.schedule_id, row.scheduled_for, row.outcome, row.reason, row.execution_id, row.recorded_at


def _build_change(_dialect: str) -> Any:
    key = {name: sa.bindparam(f"key_{name}", type_=occurrences.c[name].type) for name in _NAMES[:2]}
    values = {name: sa.bindparam(f"new_{name}", type_=occurrences.c[name].type) for name in _NAMES[2:]}
    return sa.update(occurrences).where(*(occurrences.c[name] == value for name, value in key.items())).values(values)


_NAMES = [item.name for item in fields(Occurrence)]
_INSERT = Bulk(bulk.insert_or_ignore(occurrences, _NAMES), _NAMES)
_CHANGE = Bulk(_build_change, [*(f"key_{name}" for name in _NAMES[:2]), *(f"new_{name}" for name in _NAMES[2:])])
