"""Where schedules stand: what settling them reads, and what it writes. Statements of every turn, for many at once."""

import datetime as dt
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from jobworker.domain.execution import State
from jobworker.store import schema, unreadable
from jobworker.store.bulk import Bulk

_schedules = schema.job_schedules
_executions = schema.executions

#: Most ids in one IN list; SQLite allows 32,766 variables.
_CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Due:
    """Where a schedule stands, without what somebody decided: what settling it has to know.

    `oldest` is the first of its executions that have not ended.
    """

    id: str
    name: str
    job: str
    revision: int
    enabled: bool
    state: str
    paused_at: dt.datetime | None
    paused_by: str | None
    pause_note: str | None
    paused_until: dt.datetime | None
    settled_until: dt.datetime
    next_at: dt.datetime | None
    runs: int
    failures: int
    oldest: str | None


@dataclass(frozen=True, slots=True)
class Coming:
    """A schedule that will be due."""

    id: str
    name: str
    revision: int
    next_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Settled:
    """How far a schedule has come."""

    id: str
    settled_until: dt.datetime
    next_at: dt.datetime | None
    runs: int
    state: str


def due(connection: sa.Connection, ids: Sequence[str], lock: bool = True) -> list[Due]:
    """Where these schedules stand, by id; `lock` keeps other transactions from settling them before this one ends."""
    found: list[Due] = []
    for start in range(0, len(ids), _CHUNK):
        query = _DUE.where(_schedules.c.id.in_(ids[start : start + _CHUNK])).order_by(_schedules.c.id)
        found += [Due(*row) for row in connection.execute(query.with_for_update() if lock else query)]
    return found


def specs(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Any]:
    """What somebody decided about these schedules, as it is stored, by id."""
    found: dict[str, Any] = {}
    for start in range(0, len(ids), _CHUNK):
        query = sa.select(_schedules.c.id, _schedules.c.spec).where(_schedules.c.id.in_(ids[start : start + _CHUNK]))
        found.update((row.id, row.spec) for row in connection.execute(query))
    return found


def unfinished(connection: sa.Connection, schedule_id: str) -> list[tuple[str, State]]:
    """Executions of a schedule that have not ended, the oldest first, up to a sensible number: id and state."""
    rows = connection.execute(_UNFINISHED, {"id": schedule_id})
    return list(unreadable.those(rows, _read_unfinished))


_read_unfinished = unreadable.reader(lambda row: f"state of execution {row.id}", lambda row: (row.id, State(row.state)))


def due_by(connection: sa.Connection, now: dt.datetime, limit: int) -> list[tuple[str, dt.datetime]]:
    """Up to `limit` schedules with something due at `now` or before: (id, when), the longest due first."""
    query = _AHEAD.where(_schedules.c.next_at <= now).limit(limit)
    return [(row.id, row.next_at) for row in connection.execute(query)]


def coming(connection: sa.Connection, after: tuple[dt.datetime, str], until: dt.datetime, limit: int) -> list[Coming]:
    """Up to `limit` schedules that are due next after this time, or at it with a later id, and not after `until`."""
    place = sa.tuple_(_schedules.c.next_at, _schedules.c.id) > sa.tuple_(sa.literal(after[0]), sa.literal(after[1]))
    query = _COMING.where(place, _schedules.c.next_at <= until).limit(limit)
    return [Coming(*row) for row in connection.execute(query)]


def next_due(connection: sa.Connection, after: dt.datetime) -> dt.datetime | None:
    """When the first schedule is due after this moment."""
    return connection.scalar(_NEXT, {"after": after})


def advance(connection: sa.Connection, settled: Iterable[Settled]) -> None:
    """Remember how far the ledger goes, and what comes next."""
    _ADVANCE.run(connection, map(_SETTLED, settled))


def starting(connection: sa.Connection) -> list[str]:
    """Schedules that may say `run_at_start`: a look at all of them, made once."""
    said = sa.cast(_schedules.c.spec, sa.Text).op("LIKE")
    flag = sa.or_(said('%"run_at_start":true%'), said('%"run_at_start": true%'))
    query = sa.select(_schedules.c.id).where(_schedules.c.enabled, flag).order_by(_schedules.c.id)
    return list(connection.scalars(query))


def pauses_over(connection: sa.Connection, now: dt.datetime, limit: int) -> list[str]:
    """Up to `limit` schedules whose pause has come to its end, the longest over first."""
    over = _schedules.c.paused_until <= now
    query = sa.select(_schedules.c.id).where(sa.text(schema.PAUSED_UNTIL), over).order_by(_schedules.c.paused_until)
    return list(connection.scalars(query.limit(limit)))


def count_failures(connection: sa.Connection, failures: Mapping[str, int]) -> None:
    """How many executions of these schedules have failed in a row."""
    _COUNT.run(connection, list(failures.items()))


def _build_advance(_dialect: str) -> Any:
    values = {name: sa.bindparam(f"new_{name}", type_=_schedules.c[name].type) for name in _ADVANCED}
    return sa.update(_schedules).where(_schedules.c.id == sa.bindparam("key")).values(values)


_ADVANCED = ("settled_until", "next_at", "runs", "state")
_SETTLED = operator.attrgetter("id", *_ADVANCED)
_ADVANCE = Bulk(_build_advance, ["key", *(f"new_{name}" for name in _ADVANCED)])


def _build_count(_dialect: str) -> Any:
    number = sa.bindparam("number", type_=_schedules.c.failures.type)
    return sa.update(_schedules).where(_schedules.c.id == sa.bindparam("key")).values(failures=number)


_COUNT = Bulk(_build_count, ["key", "number"])

# Statements of every turn are built once: building one costs as much as running it.
#: A backfill is a batch, and nothing that is due waits for it or is left out because of it.
_OWN = sa.and_(sa.text(schema.OF_SCHEDULE), _executions.c.batch_id.is_(None))
_OLDEST = (
    sa.select(_executions.c.id)
    .where(_executions.c.schedule_id == _schedules.c.id, _OWN)
    .order_by(_executions.c.id)
    .limit(1)
    .correlate(_schedules)
    .scalar_subquery()
)
_UNFINISHED = (
    sa.select(_executions.c.id, _executions.c.state)
    .where(_executions.c.schedule_id == sa.bindparam("id"), _OWN)
    .order_by(_executions.c.id)
    .limit(_CHUNK)
)
_DUE: sa.Select[Any] = sa.select(
    *(_schedules.c[item.name] for item in fields(Due) if item.name != "oldest"), _OLDEST.label("oldest")
)
_AHEAD = (
    sa.select(_schedules.c.id, _schedules.c.next_at)
    .where(sa.text(schema.AHEAD_OF_TIME))
    .order_by(_schedules.c.next_at, _schedules.c.id)
)
_COMING: sa.Select[Any] = (
    sa.select(*(_schedules.c[item.name] for item in fields(Coming)))
    .where(sa.text(schema.AHEAD_OF_TIME))
    .order_by(_schedules.c.next_at, _schedules.c.id)
)
_NEXT = (
    sa.select(_schedules.c.next_at)
    .where(sa.text(schema.AHEAD_OF_TIME), _schedules.c.next_at > sa.bindparam("after", type_=_schedules.c.next_at.type))
    .order_by(_schedules.c.next_at)
    .limit(1)
)
