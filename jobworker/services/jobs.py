"""Job definitions: create, change, remove, look up; and the tasks that they name."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain import admission, policies, schedule
from jobworker.domain.errors import (
    FieldError,
    InvalidInput,
    JobExists,
    JobOwnedByCode,
    JobScheduled,
    PreconditionFailed,
    TaskNotFound,
)
from jobworker.domain.job import Definition, Owner
from jobworker.domain.parameters import Parameter
from jobworker.services import finding, firing, trigger_rules
from jobworker.store import jobs, schedule_lists, tasks, workers
from jobworker.store.database import Database
from jobworker.store.jobs import JobRow
from jobworker.store.pages import DEFAULT_LIMIT, Page
from jobworker.store.tasks import TaskRow


@dataclass(frozen=True, slots=True)
class Job:
    """A definition with what its task accepts (nothing if no worker has announced the task)."""

    row: JobRow
    parameters: tuple[Parameter, ...]


#: So many names are told.
_SHOWN = 10

#: The revisions that a change may replace; None: whichever is current.
Expected = Collection[int] | None


def create(database: Database, clock: Clock, definition: Definition, actor: str) -> Job:
    """Add a definition; raises `JobExists`."""
    with database.write() as connection:
        if jobs.get(connection, definition.name):
            raise JobExists(f"job {definition.name} exists already; change it with PUT and If-Match")
        return _put(connection, clock, definition, actor)


def change(database: Database, clock: Clock, definition: Definition, expected: Expected, actor: str) -> Job:
    """Replace a definition, if its current revision is one of those expected."""
    with database.write() as connection:
        _claim(connection, definition.name, expected)
        return _put(connection, clock, definition, actor)


def remove(database: Database, clock: Clock, name: str, expected: Expected, actor: str) -> None:
    """Remove a definition and its schedule; executions accepted before still run.

    One that is defined in code can be removed once no live worker has that code any more, and one that other
    schedules start once they do not.
    """
    with database.write() as connection:
        row = _expect(connection, name, expected)
        if row.owner is Owner.CODE and any(row.definition.task in worker.tasks for worker in workers.live(connection)):
            raise _owned_by_code(row)
        starting = schedule_lists.starting(connection, name)
        if starting:
            raise JobScheduled(f"job {name} is started by {_several('schedule', starting)}; delete them first")
        now = clock.now()
        firing.settle_own(connection, name, now)
        jobs.delete(connection, name, actor, now)


def get(database: Database, name: str) -> Job:
    """One definition; raises `JobNotFound`."""
    with database.read() as connection:
        row = finding.job(connection, name)
        task = tasks.get(connection, row.definition.task)
    return Job(row, task.parameters if task else ())


def page(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Job]:
    """Definitions by name."""
    with database.read() as connection:
        found = jobs.page(connection, limit, cursor)
        known = tasks.some(connection, [row.definition.task for row in found.items])
    return found.replace_items([Job(row, _accepted(known, row)) for row in found.items])


def get_task(database: Database, name: str) -> TaskRow:
    """One task; raises `TaskNotFound`."""
    with database.read() as connection:
        return finding.task(connection, name)


def page_tasks(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[TaskRow]:
    """Tasks by name."""
    with database.read() as connection:
        return tasks.page(connection, limit, cursor)


def _claim(connection: sa.Connection, name: str, expected: Expected) -> None:
    """Make sure that this job may be changed over the API, by somebody who knows its current revision."""
    row = _expect(connection, name, expected)
    if row.owner is Owner.CODE:
        raise _owned_by_code(row)


def _owned_by_code(row: JobRow) -> JobOwnedByCode:
    name, task = row.definition.name, row.definition.task
    return JobOwnedByCode(f"job {name} is defined in code that a live worker has (task {task}); change it there")


def _expect(connection: sa.Connection, name: str, expected: Expected) -> JobRow:
    """The job, if it is at one of the revisions that the caller knows."""
    row = finding.job(connection, name, lock=True)
    if expected is not None and row.revision not in expected:
        raise PreconditionFailed(f"job {name} is at revision {row.revision} now; read it again, then repeat the change")
    return row


def _put(connection: sa.Connection, clock: Clock, definition: Definition, actor: str) -> Job:
    try:
        task = finding.task(connection, definition.task)
    except TaskNotFound as error:
        raise InvalidInput(error.detail, [FieldError("/task", error.code, error.detail)]) from None
    admission.refuse(admission.check_definition(definition, task.parameters))
    finding.queue(connection, definition.queue, "/queue")
    trigger_rules.check(connection, definition)
    if definition.schedule is not None:
        made = schedule.of_job(definition.name, definition.schedule)
        definition = replace(definition, schedule=schedule.to_job(made))
    definition = replace(definition, policies=policies.normalise(definition.policies)[0])
    now = clock.now()
    firing.settle_own(connection, definition.name, now)
    return Job(jobs.put(connection, definition, Owner.API, actor, now), task.parameters)


def _several(noun: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    if len(names) == 1:
        return f"{noun} {shown}"
    return f"{noun}s {shown}" + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _accepted(known: dict[str, TaskRow], row: JobRow) -> tuple[Parameter, ...]:
    task = known.get(row.definition.task)
    return task.parameters if task else ()
