"""Jobs and tasks by their names, and what to say when there is none of a name."""

import sqlalchemy as sa

from jobworker.domain.errors import JobNotFound, TaskNotFound
from jobworker.services import naming
from jobworker.store import jobs, tasks
from jobworker.store.jobs import JobRow
from jobworker.store.tasks import TaskRow


def job(connection: sa.Connection, name: str, lock: bool = False) -> JobRow:
    """The job of this name; raises `JobNotFound` with the names that come close."""
    row = jobs.get(connection, name, lock) if name.isprintable() else None
    if row is None:
        raise no_job(connection, name)
    return row


def no_job(connection: sa.Connection, name: str) -> JobNotFound:
    """The error for a job that does not exist."""
    return JobNotFound(naming.unknown("job", name, jobs.names_around(connection, name), "GET /api/v1/jobs"))


def task(connection: sa.Connection, name: str) -> TaskRow:
    """The task of this name; raises `TaskNotFound` with the names that come close."""
    row = tasks.get(connection, name) if name.isprintable() else None
    if row is None:
        raise TaskNotFound(naming.unknown("task", name, tasks.names_around(connection, name), "GET /api/v1/tasks"))
    return row
