"""Jobs, tasks and queues by their names, and what to say when there is none of a name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.errors import FieldError, JobNotFound, TaskNotFound, UnknownQueue
from jobworker.domain.jobs.definition import BUILTIN_QUEUES, QUEUE_NAME_PATTERN
from jobworker.services import suggestions
from jobworker.store import jobs, queues, tasks
from jobworker.store.jobs import JobRow
from jobworker.store.tasks import TaskRow

#: So many queues are read to tell which comes close to one that does not exist.
_MAX_QUEUES_COMPARED = 200


@dataclass(frozen=True, slots=True)
class QueueLookup:
    """Of the queues that a request names those that do not exist, and the first of those that do."""

    missing: frozenset[str] = frozenset()
    existing: Sequence[str] = ()

    def check_exists(self, name: str | None, pointer: str) -> None:
        """Raise `UnknownQueue` if the request names a queue there that does not exist."""
        if name in self.missing:
            message = suggestions.describe_missing_queue(name, self.existing)
            raise UnknownQueue(message, [FieldError(pointer, UnknownQueue.code, message)])


def find_job(connection: sa.Connection, name: str, lock: bool = False) -> JobRow:
    """The job of this name; raises `JobNotFound` with the names that come close."""
    row = jobs.get(connection, name, lock) if name.isprintable() else None
    if row is None:
        raise make_job_not_found_error(connection, name)
    return row


def make_job_not_found_error(connection: sa.Connection, name: str) -> JobNotFound:
    """The error for a job that does not exist."""
    return JobNotFound(
        suggestions.describe_unknown("job", name, jobs.list_nearby_names(connection, name), "GET /api/v1/jobs")
    )


def find_task(connection: sa.Connection, name: str) -> TaskRow:
    """The task of this name; raises `TaskNotFound` with the names that come close."""
    row = tasks.get(connection, name) if name.isprintable() else None
    if row is None:
        raise TaskNotFound(
            suggestions.describe_unknown("task", name, tasks.list_nearby_names(connection, name), "GET /api/v1/tasks")
        )
    return row


def check_queue(connection: sa.Connection, name: str | None, pointer: str) -> None:
    """Raise `UnknownQueue` if a queue that is named there does not exist; None names none."""
    look_up_queues(connection, [name]).check_exists(name, pointer)


def look_up_queues(connection: sa.Connection, names: Iterable[str | None]) -> QueueLookup:
    """What has to be known of the queues that a request names. Shipped ones, and none at all, cost no query."""
    asked = {name for name in names if name is not None and QUEUE_NAME_PATTERN.match(name)}.difference(BUILTIN_QUEUES)
    missing = asked - queues.find_existing(connection, asked)
    if not missing:
        return QueueLookup()
    return QueueLookup(frozenset(missing), list_existing_queues(connection))


def list_existing_queues(connection: sa.Connection) -> list[str]:
    """The queues that are compared with a name that does not exist: the shipped ones, and the first of the others."""
    return sorted({*BUILTIN_QUEUES, *queues.list_names(connection, _MAX_QUEUES_COMPARED)})
