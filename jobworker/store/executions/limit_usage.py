"""Limits: ready executions by limit key, slots in use, and rate buckets.

The cost of a query grows with the number of keys, not with the number of executions under them.
"""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from jobworker.domain.executions.execution import PRIORITIES
from jobworker.domain.jobs import limits
from jobworker.store import unreadable_rows
from jobworker.store.database.id_chunks import split_ids
from jobworker.store.tables.core import HOLDING_SLOT, PUBLISHED_RATE_LIMITED, READY_LIMITED, executions, rate_buckets

_LIMITED = sa.text(READY_LIMITED)
_HOLDING = sa.text(HOLDING_SLOT)
_AHEAD = sa.text(PUBLISHED_RATE_LIMITED)

#: Revision key of the job of an execution, in the format of `format_revision_key`.
_REVISION: sa.ColumnElement[str] = sa.literal_column("job || ' ' || job_revision", sa.String)


@dataclass(frozen=True, slots=True)
class QueueBacklog:
    """Executions of one queue that may run, because a worker of the queue has their task.

    `excluded_revisions` are revisions of jobs that are left out, in the format of `format_revision_key`.
    """

    queue: str
    tasks: Sequence[str]
    excluded_revisions: Sequence[str] = ()

    def exclude_revisions(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Return `query` without executions of the excluded revisions."""
        return query.where(_REVISION.not_in(self.excluded_revisions)) if self.excluded_revisions else query


@dataclass(frozen=True, slots=True)
class LimitedExecution:
    """Candidate for the next execution of its limit key."""

    limit_key: str
    id: str
    priority: int
    due_at: dt.datetime

    @property
    def is_readable(self) -> bool:
        """True if the columns have the types needed to determine the order and the limits."""
        limit_key: object = self.limit_key
        priority: object = self.priority
        return isinstance(limit_key, str) and isinstance(priority, int)


def format_revision_key(job: str, revision: int) -> str:
    """Return the key of a revision of a job in `QueueBacklog.excluded_revisions`."""
    return f"{job} {revision}"


_FIRST = f"""
    SELECT id FROM executions
     WHERE {READY_LIMITED} AND queue = :queue AND limit_key > %s AND task IN :tasks AND cancel_requested_at IS NULL
       AND {_REVISION} NOT IN :without
     ORDER BY limit_key, priority DESC, due_at, id LIMIT 1"""

# One index step from key to key; a DISTINCT would read all ready executions.
_HEADS: Any = (
    sa.text(
        f"""
WITH RECURSIVE heads(id, limit_key, priority, due_at, number) AS (
    SELECT id, limit_key, priority, due_at, 1 FROM executions WHERE id = ({_FIRST % ":after"})
    UNION ALL
    SELECT found.id, found.limit_key, found.priority, found.due_at, heads.number + 1
      FROM heads JOIN executions AS found ON found.id = ({_FIRST % "heads.limit_key"})
     WHERE heads.number < :most
) SELECT limit_key, id, priority, due_at FROM heads"""
    )
    .bindparams(sa.bindparam("tasks", expanding=True), sa.bindparam("without", type_=sa.String, expanding=True))
    .columns(limit_key=sa.String, id=sa.String, priority=sa.Integer, due_at=executions.c.due_at.type)
)


def list_heads(connection: sa.Connection, backlog: QueueBacklog, after: str, limit: int) -> list[LimitedExecution]:
    """Return the next execution of each limit key after `after`, by key. The rows may be unreadable."""
    lists = {"tasks": list(backlog.tasks), "without": list(backlog.excluded_revisions)}
    parameters = {"queue": backlog.queue, "after": after, "most": limit, **lists}
    return [LimitedExecution(*row) for row in connection.execute(_HEADS, parameters)]


def list_by_limit_key(
    connection: sa.Connection, backlog: QueueBacklog, limit_key: str, limit: int
) -> list[LimitedExecution]:
    """Return the next `limit` executions of one limit key, most urgent first. The rows may be unreadable."""
    rows = connection.execute(
        _select_by_limit_key(backlog, limit_key)
        .order_by(executions.c.priority.desc(), executions.c.due_at, executions.c.id)
        .limit(limit)
    )
    return [LimitedExecution(*row) for row in rows]


def get_overtaken(
    connection: sa.Connection, backlog: QueueBacklog, head: LimitedExecution, before: dt.datetime
) -> LimitedExecution | None:
    """Return the longest due execution with a lower priority than `head` that is due since `before`."""
    candidates: list[LimitedExecution] = []
    for priority in range(PRIORITIES.start, head.priority):
        query = _select_by_limit_key(backlog, head.limit_key).where(
            executions.c.priority == priority, executions.c.due_at <= before
        )
        candidates += [
            LimitedExecution(*row) for row in connection.execute(query.order_by(executions.c.due_at).limit(1))
        ]
    return min(candidates, key=lambda candidate: candidate.due_at, default=None)


def _select_by_limit_key(backlog: QueueBacklog, limit_key: str) -> sa.Select[Any]:
    columns = (executions.c[name] for name in LimitedExecution.__dataclass_fields__)
    query = sa.select(*columns).where(
        _LIMITED,
        executions.c.queue == backlog.queue,
        executions.c.limit_key == limit_key,
        executions.c.task.in_(backlog.tasks),
        executions.c.cancel_requested_at.is_(None),
    )
    return backlog.exclude_revisions(query)


def count_held_slots(connection: sa.Connection) -> dict[str, int]:
    """Count the slots in use by concurrency key, those of running and of published executions."""
    query = sa.select(executions.c.concurrency_key, sa.func.count()).where(_HOLDING)
    return dict(
        unreadable_rows.read_all(connection.execute(query.group_by(executions.c.concurrency_key)), _read_held_slots)
    )


_read_held_slots = unreadable_rows.build_reader(
    lambda row: f"concurrency key {row.concurrency_key!r} of executions", lambda row: (row[0], row[1]), executions
)
_read_holder = unreadable_rows.build_reader(
    lambda row: f"concurrency key of execution {row.id}",
    lambda row: (row.id, limits.get_job_name(row.concurrency_key)),
    executions,
)


def list_slot_holders(connection: sa.Connection, key: str, limit: int) -> list[str]:
    """Return up to `limit` executions with a slot of `key`, a concurrency key or the name of a job, oldest first."""
    query = sa.select(executions.c.id, executions.c.concurrency_key).where(_HOLDING).order_by(executions.c.id)
    if limits.get_job_name(key) != key:
        query = query.where(executions.c.concurrency_key == key)
    rows = unreadable_rows.read_all(connection.execute(query), _read_holder)
    return [execution for execution, job in rows if job == limits.get_job_name(key)][:limit]


def count_published(connection: sa.Connection, keys: Collection[str]) -> dict[str, int]:
    """Count the published executions that have not started, by rate key."""
    query = sa.select(executions.c.rate_key, sa.func.count()).where(_AHEAD).group_by(executions.c.rate_key)
    return {row[0]: row[1] for row in connection.execute(query) if row[0] in keys}


def get_rate_buckets(connection: sa.Connection, keys: Iterable[str]) -> dict[str, dt.datetime]:
    """Return the time when each of these rate buckets is full again, without buckets that have no row."""
    full_times: dict[str, dt.datetime] = {}
    for chunk in split_ids(keys):
        query = sa.select(rate_buckets).where(rate_buckets.c.key.in_(chunk))
        full_times.update((row.key, row.full_at) for row in connection.execute(query))
    return full_times


def upsert_rate_buckets(connection: sa.Connection, full_at: Mapping[str, dt.datetime]) -> None:
    """Write the times when these rate buckets are full again."""
    if full_at:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        query = dialect.insert(rate_buckets)
        changed = query.on_conflict_do_update(index_elements=["key"], set_={"full_at": query.excluded.full_at})
        connection.execute(changed, [{"key": key, "full_at": at} for key, at in full_at.items()])


def delete_full_buckets(connection: sa.Connection, now: dt.datetime) -> int:
    """Delete the rows of full rate buckets; return their number."""
    return connection.execute(sa.delete(rate_buckets).where(rate_buckets.c.full_at < now)).rowcount
