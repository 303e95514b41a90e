"""How definitions were at each of their revisions, and what an execution did otherwise than the last good one."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain import differences
from jobworker.domain.differences import Difference
from jobworker.domain.errors import RevisionNotFound
from jobworker.services import executions as execution_services
from jobworker.services import finding
from jobworker.store import executions, jobs
from jobworker.store.database import Database
from jobworker.store.executions import ExecutionRow
from jobworker.store.jobs import RevisionRow
from jobworker.store.pages import DEFAULT_LIMIT, Page

#: Databases keep no higher number.
_HIGHEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Changed:
    """A revision, and the fields that it changed; None for the first."""

    row: RevisionRow
    changed_fields: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Changes:
    """An execution, the last success before it, and how it differs from that; no such success: None, and nothing."""

    execution: ExecutionRow
    last_success: ExecutionRow | None
    differences: Sequence[Difference]


def page(database: Database, job: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Changed]:
    """The revisions of a job, the latest first; they outlive it. Raises `JobNotFound`."""
    with database.read() as connection:
        if not job.isprintable():
            raise finding.no_job(connection, job)
        found = jobs.revisions(connection, job, limit, cursor)
        if not found.items:
            finding.job(connection, job)
        earliest = found.items[-1].revision if found.items else 1
        before = jobs.revision_row(connection, job, earliest - 1)
    older = [*found.items[1:], before]
    return found.replace_items([Changed(row, _changed(row, was)) for row, was in zip(found.items, older, strict=False)])


def get(database: Database, job: str, number: int) -> Changed:
    """One revision; raises `JobNotFound`, `RevisionNotFound`."""
    with database.read() as connection:
        row = jobs.revision_row(connection, job, number) if number <= _HIGHEST and job.isprintable() else None
        if row is None:
            latest = finding.job(connection, job).revision
            raise RevisionNotFound(f"job {job} has no revision {number}; the latest is {latest}")
        return Changed(row, _changed(row, jobs.revision_row(connection, job, number - 1)))


def changes(database: Database, execution_id: str) -> Changes:
    """What is different from the last success of the same job that was accepted before; raises `ExecutionNotFound`."""
    row = execution_services.get(database, execution_id)
    with database.read() as connection:
        success = executions.last_success(connection, row.job, row.id)
        if success is None:
            return Changes(row, None, ())
        definitions = _definition(connection, success), _definition(connection, row)
    return Changes(row, success, differences.between(success, row, definitions))


def _definition(connection: sa.Connection, row: ExecutionRow) -> dict[str, object]:
    found = jobs.revision(connection, row.job, row.job_revision)
    return found.to_json() if found else {}


def _changed(row: RevisionRow, before: RevisionRow | None) -> list[str] | None:
    if before is None:
        return None
    pair = before.definition.to_json(), row.definition.to_json()
    return [each.pointer for each in differences.of_values("definition", *pair)]
