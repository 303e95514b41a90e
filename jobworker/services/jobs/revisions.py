"""Revisions of job definitions, and the comparison of an execution with the last successful one."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.errors import RevisionNotFound
from jobworker.domain.executions import comparison
from jobworker.domain.executions.comparison import Difference
from jobworker.services import lookup
from jobworker.services.executions import executions as execution_services
from jobworker.store import jobs
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.jobs import JobRevisionRow
from jobworker.store.pagination import DEFAULT_LIMIT, Page

#: Maximum revision number that databases can store.
_MAX_REVISION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class JobRevisionView:
    """A revision of a job, and the fields that it changed; None for the first revision."""

    row: JobRevisionRow
    changed_fields: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class ExecutionComparison:
    """An execution, the last success before it (or None), and the differences (empty without such a success)."""

    execution: ExecutionRow
    last_success: ExecutionRow | None
    differences: Sequence[Difference]


def list_page(
    database: Database, job: str, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[JobRevisionView]:
    """Return the revisions of a job, the latest first, also of a removed job. Raises `JobNotFound`."""
    with database.read() as connection:
        if not job.isprintable():
            raise lookup.make_job_not_found_error(connection, job)
        page = jobs.list_revisions(connection, job, limit, cursor)
        if not page.items:
            lookup.find_job(connection, job)
        earliest = page.items[-1].revision if page.items else 1
        before = jobs.get_revision(connection, job, earliest - 1)
    older = [*page.items[1:], before]
    return page.replace_items(
        [JobRevisionView(row, _list_changed_fields(row, was)) for row, was in zip(page.items, older, strict=False)]
    )


def get(database: Database, job: str, number: int) -> JobRevisionView:
    """Return a revision of a job. Raises `JobNotFound`, `RevisionNotFound`."""
    with database.read() as connection:
        row = jobs.get_revision(connection, job, number) if number <= _MAX_REVISION and job.isprintable() else None
        if row is None:
            latest = lookup.find_job(connection, job).revision
            raise RevisionNotFound(f"job {job} has no revision {number}; the latest is {latest}")
        return JobRevisionView(row, _list_changed_fields(row, jobs.get_revision(connection, job, number - 1)))


def compare_with_last_success(database: Database, execution_id: str) -> ExecutionComparison:
    """Compare an execution with the last successful one of its job accepted before it. Raises `ExecutionNotFound`."""
    row = execution_services.get(database, execution_id)
    with database.read() as connection:
        success = executions.get_last_success(connection, row.job, row.id)
        if success is None:
            return ExecutionComparison(row, None, ())
        definitions = _get_definition(connection, success), _get_definition(connection, row)
    return ExecutionComparison(row, success, comparison.compare_executions(success, row, definitions))


def _get_definition(connection: sa.Connection, row: ExecutionRow) -> dict[str, object]:
    definition = jobs.get_definition(connection, row.job, row.job_revision)
    return definition.to_json() if definition else {}


def _list_changed_fields(row: JobRevisionRow, before: JobRevisionRow | None) -> list[str] | None:
    if before is None:
        return None
    pair = before.definition.to_json(), row.definition.to_json()
    return [difference.pointer for difference in comparison.compare_values("definition", *pair)]
