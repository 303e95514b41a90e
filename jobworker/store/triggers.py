"""Which jobs start after which: what the definitions say, the other way round."""

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
    """`job` starts when an execution of `trigger.job` has ended as it says."""

    job: str
    trigger: Trigger


# Asked in every turn in which something ends: built once, because building a statement costs as much as running it.
_LIST_AFTER = (
    sa.select(job_triggers)
    .where(job_triggers.c.after.in_(sa.bindparam("jobs", expanding=True)))
    .order_by(job_triggers.c.job, job_triggers.c.condition)
)


def replace(connection: sa.Connection, job: str, triggers: Sequence[Trigger]) -> None:
    """Make the table say what the definition of `job` says."""
    connection.execute(job_triggers.delete().where(job_triggers.c.job == job))
    if triggers:
        connection.execute(
            job_triggers.insert(),
            [
                {"after": each.job, "job": job, "condition": each.on.value, "parameters": dict(each.parameters)}
                for each in triggers
            ],
        )


def list_after(connection: sa.Connection, jobs: Collection[str]) -> list[TriggerRow]:
    """Return what starts after these jobs, without the triggers that cannot be read."""
    return list(unreadable_rows.read_all(connection.execute(_LIST_AFTER, {"jobs": sorted(jobs)}), _read))


def list_edges(connection: sa.Connection) -> list[tuple[str, str]]:
    """Every (job, the job it starts after)."""
    return [(row.job, row.after) for row in connection.execute(sa.select(job_triggers.c.job, job_triggers.c.after))]


def lock(connection: sa.Connection) -> None:
    """Let nobody else change triggers before this transaction ends: two changes could make a cycle together."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE job_triggers IN SHARE ROW EXCLUSIVE MODE"))


def find_fired(connection: sa.Connection, parents: Iterable[str]) -> set[tuple[str, str]]:
    """(parent, job) of every execution that the ends of these parents have started."""
    query = sa.select(executions.c.triggered_by, executions.c.job).where(executions.c.triggered_by.in_(list(parents)))
    return {(row.triggered_by, row.job) for row in connection.execute(query)}


def _to_row(row: sa.Row[Any]) -> TriggerRow:
    return TriggerRow(row.job, Trigger(row.after, RequiredOutcome(row.condition), row.parameters))


_read = unreadable_rows.build_reader(
    lambda row: f"condition of the trigger of job {row.job} after {row.after}", _to_row
)
