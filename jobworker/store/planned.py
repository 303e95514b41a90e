"""What beat has to know of schedules, read from SQL in bounded pieces."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.schedule import State
from jobworker.store import schema

_schedules = schema.job_schedules
_named = schema.schedule_calendars
_calendars = schema.calendars

#: Ids in one statement.
_CHUNK = 500

_RETIRED = State.RETIRED.value

#: Changes with what a schedule says, and with what its calendars say.
_calendar_revisions = (
    sa.select(sa.func.coalesce(sa.func.sum(_calendars.c.revision), 0))
    .select_from(_named.join(_calendars, _calendars.c.name == _named.c.calendar))
    .where(_named.c.schedule_id == _schedules.c.id)
    .scalar_subquery()
    .label("calendar_revisions")
)
_columns = (
    _schedules.c.id,
    _schedules.c.revision,
    _calendar_revisions,
    _schedules.c.enabled,
    _schedules.c.state,
    _schedules.c.next_at,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """When a schedule is due next (None: never, as it stands), and which version of it says so."""

    id: str
    version: str
    next_at: dt.datetime | None


def changed(connection: sa.Connection, since: dt.datetime, limit: int) -> list[Plan]:
    """Schedules that were changed at this time or later, the latest first."""
    statement = sa.select(*_columns).where(_schedules.c.changed_at >= since)
    return _plans(connection, statement.order_by(_schedules.c.changed_at.desc()).limit(limit))


def after(connection: sa.Connection, schedule_id: str, limit: int) -> list[Plan]:
    """Those that follow this id, in the order of their ids; "" is before all of them."""
    statement = sa.select(*_columns).where(_schedules.c.id > schedule_id)
    return _plans(connection, statement.order_by(_schedules.c.id).limit(limit))


def of(connection: sa.Connection, ids: Sequence[str]) -> list[Plan]:
    """Those with these ids, as far as there are any."""
    statement = sa.select(*_columns)
    return [plan for some in _chunks(ids) for plan in _plans(connection, statement.where(_schedules.c.id.in_(some)))]


def specified(connection: sa.Connection, ids: Sequence[str]) -> list[tuple[Plan, Mapping[str, Any]]]:
    """The same, each with what it says (`domain.schedule`)."""
    statement = sa.select(*_columns, _schedules.c.spec)
    found = (row for some in _chunks(ids) for row in connection.execute(statement.where(_schedules.c.id.in_(some))))
    return [(_plan(row), row.spec) for row in found]


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def _plans(connection: sa.Connection, statement: sa.Select[Any]) -> list[Plan]:
    return [_plan(row) for row in connection.execute(statement)]


def _plan(row: Any) -> Plan:
    # One that is exhausted may have an occurrence to come that says so in the ledger.
    known = row.enabled and row.state != _RETIRED
    return Plan(row.id, f"{row.revision}.{row.calendar_revisions}", row.next_at if known else None)
