"""Triggers of job definitions, indexed by the job whose end fires them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.workflows.dependency import RequiredOutcome
from jobworker.domain.workflows.trigger import Trigger
from jobworker.store import unreadable_rows
from jobworker.store.tables.core import executions
from jobworker.store.tables.dependencies import job_triggers


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """Trigger of `job`, which starts when an execution of `trigger.job` has ended with the required outcome."""

    job: str
    trigger: Trigger


# Runs in every relay turn in which executions end; built once, because building it costs as much as running it.
_LIST_AFTER = (
    sa.select(job_triggers)
    .where(job_triggers.c.after.in_(sa.bindparam("jobs", expanding=True)))
    .order_by(job_triggers.c.job, job_triggers.c.condition)
)


def replace(connection: sa.Connection, job: str, triggers: Sequence[Trigger]) -> None:
    """Replace the triggers of `job`."""
    connection.execute(job_triggers.delete().where(job_triggers.c.job == job))
    if triggers:
        connection.execute(
            job_triggers.insert(),
            [
                {
                    "after": trigger.job,
                    "job": job,
                    "condition": trigger.on.value,
                    "parameters": dict(trigger.parameters),
                }
                for trigger in triggers
            ],
        )


def list_after(connection: sa.Connection, jobs: Collection[str]) -> list[TriggerRow]:
    """Return the triggers fired by these jobs, without unreadable ones."""
    return list(unreadable_rows.read_all(connection.execute(_LIST_AFTER, {"jobs": sorted(jobs)}), _read))


def list_edges(connection: sa.Connection) -> list[tuple[str, str]]:
    """Return every pair of a job and the job that triggers it."""
    return [(row.job, row.after) for row in connection.execute(sa.select(job_triggers.c.job, job_triggers.c.after))]


def lock(connection: sa.Connection) -> None:
    """Lock the triggers until this transaction ends, because two concurrent changes could create a cycle."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE job_triggers IN SHARE ROW EXCLUSIVE MODE"))


def find_fired(connection: sa.Connection, parents: Iterable[str]) -> set[tuple[str, str]]:
    """Return (parent, job) of every execution triggered by the end of one of these parents."""
    query = sa.select(executions.c.triggered_by, executions.c.job).where(executions.c.triggered_by.in_(list(parents)))
    return {(row.triggered_by, row.job) for row in connection.execute(query)}


def _to_row(row: sa.Row[Any]) -> TriggerRow:
    return TriggerRow(row.job, Trigger(row.after, RequiredOutcome(row.condition), row.parameters))


_read = unreadable_rows.build_reader(
    lambda row: f"condition of the trigger of job {row.job} after {row.after}", _to_row
)
