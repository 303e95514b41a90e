"""Lookup of jobs, tasks and queues by name, and error messages that suggest similar names."""

import bisect
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.errors import FieldError, JobNotFound, TaskNotFound, UnknownQueue
from jobworker.domain.jobs.definition import BUILTIN_QUEUES, QUEUE_NAME_PATTERN
from jobworker.store import jobs, queues, tasks
from jobworker.store.jobs import JobRow
from jobworker.store.similar_names import MAX_NAMES
from jobworker.store.tasks import TaskRow

#: Maximum number of queues compared with the name of a queue that does not exist.
_MAX_QUEUES_COMPARED = 200

#: Maximum number of existing names in an error message.
_MAX_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class QueueLookup:
    """Queues that a request names but that do not exist, and the first of the existing queues."""

    missing: frozenset[str] = frozenset()
    existing: Sequence[str] = ()

    def check_exists(self, name: str | None, pointer: str) -> None:
        """Raise `UnknownQueue` if the queue named at `pointer` does not exist."""
        if name in self.missing:
            message = describe_missing_queue(name, self.existing)
            raise UnknownQueue(message, [FieldError(pointer, UnknownQueue.code, message)])


def find_job(connection: sa.Connection, name: str, lock: bool = False) -> JobRow:
    """Return the job with this name. Raises `JobNotFound` with similar names."""
    row = jobs.get(connection, name, lock) if name.isprintable() else None
    if row is None:
        raise make_job_not_found_error(connection, name)
    return row


def make_job_not_found_error(connection: sa.Connection, name: str) -> JobNotFound:
    """Return the error for a job that does not exist."""
    return JobNotFound(describe_unknown("job", name, jobs.list_nearby_names(connection, name), "GET /api/v1/jobs"))


def find_task(connection: sa.Connection, name: str) -> TaskRow:
    """Return the task with this name. Raises `TaskNotFound` with similar names."""
    row = tasks.get(connection, name) if name.isprintable() else None
    if row is None:
        raise TaskNotFound(
            describe_unknown("task", name, tasks.list_nearby_names(connection, name), "GET /api/v1/tasks")
        )
    return row


def check_queue(connection: sa.Connection, name: str | None, pointer: str) -> None:
    """Raise `UnknownQueue` if the queue named at `pointer` does not exist; None names no queue."""
    look_up_queues(connection, [name]).check_exists(name, pointer)


def look_up_queues(connection: sa.Connection, names: Iterable[str | None]) -> QueueLookup:
    """Look up the queues that a request names. Built-in queues are not queried."""
    queried_names = {name for name in names if name is not None and QUEUE_NAME_PATTERN.match(name)}.difference(
        BUILTIN_QUEUES
    )
    missing = queried_names - queues.find_existing(connection, queried_names)
    if not missing:
        return QueueLookup()
    return QueueLookup(frozenset(missing), list_existing_queues(connection))


def list_existing_queues(connection: sa.Connection) -> list[str]:
    """List the queues to suggest instead of a missing one: the built-in ones, and the first of the others."""
    return sorted({*BUILTIN_QUEUES, *queues.list_names(connection, _MAX_QUEUES_COMPARED)})


def describe_unknown(noun: str, name: str, names: Sequence[str], how_to_list: str) -> str:
    """Return an error message with the most similar names, and the request that lists all.

    `names` are the neighbors of `name`, sorted (`store.similar_names.list_nearby`), because comparing all of very many
    names takes seconds.
    """
    shown = name if len(name) <= 128 else f"{name[:128]}…"
    if not names:
        return f"there is no {noun} {shown!r}, nor any other yet: workers announce theirs when they start"
    number = "of them" if len(names) >= MAX_NAMES else str(len(names))
    return f"there is no {noun} {shown!r}{_suggest_names(shown, names)} {how_to_list} lists all {number}"


def describe_undeclared(noun: str, name: str, declared: Sequence[str]) -> str:
    """Return an error message about a missing declaration in code.

    The message contains the first declared names, because no request lists them.
    """
    more = f" and {len(declared) - _MAX_NAMES_SHOWN} more" if len(declared) > _MAX_NAMES_SHOWN else ""
    listing = f"{', '.join(declared[:_MAX_NAMES_SHOWN])}{more}" if declared else "none"
    return f"code declares no {noun} {name!r}{_suggest_names(name, declared)} It declares {listing}"


def describe_missing_queue(name: str, existing: Sequence[str]) -> str:
    """Return an error message about a missing queue; the first of the sorted `existing` names are shown."""
    shown = ", ".join(existing[:_MAX_NAMES_SHOWN])
    more = " and more (GET /api/v1/queues lists all)" if len(existing) > _MAX_NAMES_SHOWN else ""
    near = _suggest_names(name, existing)
    return f"there is no queue {name!r}{near} There are {shown}{more}. PUT /api/v1/queues/{name} creates it"


def _suggest_names(name: str, names: Sequence[str]) -> str:
    """Return a question with up to three names similar to `name`, or a full stop; `names` is sorted."""
    at = bisect.bisect(names, name)
    names = names[max(0, at - MAX_NAMES) : at + MAX_NAMES]
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(close)}?" if close else "."
