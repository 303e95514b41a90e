"""Use cases of job definitions (create, change, remove, get, list) and of their tasks (get, list)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import (
    FieldError,
    InvalidInput,
    JobExists,
    JobInUse,
    JobOwnedByCode,
    PreconditionFailed,
    TaskNotFound,
    raise_for_problems,
)
from jobworker.domain.jobs import definition_validation, policies
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.schedules import schedule
from jobworker.services import lookup
from jobworker.services.schedules import evaluator
from jobworker.services.workflows import trigger_rules
from jobworker.store import jobs, tasks, workers
from jobworker.store.database.database import Database
from jobworker.store.jobs import JobRow
from jobworker.store.pagination import DEFAULT_LIMIT, Page
from jobworker.store.schedules import schedule_queries
from jobworker.store.tasks import TaskRow


@dataclass(frozen=True, slots=True)
class JobView:
    """A job definition with the parameters of its task (none if no worker has announced the task)."""

    row: JobRow
    parameters: tuple[Parameter, ...]


#: Maximum number of schedules named in an error message.
_MAX_NAMES_SHOWN = 10

#: The revisions that a change may replace; None: any.
ExpectedRevisions = Collection[int] | None


def create(database: Database, clock: Clock, definition: JobDefinition, actor: str) -> JobView:
    """Create a job definition. Raises `JobExists`."""
    with database.write() as connection:
        if jobs.get(connection, definition.name):
            raise JobExists(f"job {definition.name} exists already; change it with PUT and If-Match")
        return _save(connection, clock, definition, actor)


def change(
    database: Database, clock: Clock, definition: JobDefinition, expected: ExpectedRevisions, actor: str
) -> JobView:
    """Replace a job definition if its current revision is one of the expected ones."""
    with database.write() as connection:
        _check_editable(connection, definition.name, expected)
        return _save(connection, clock, definition, actor)


def remove(database: Database, clock: Clock, name: str, expected: ExpectedRevisions, actor: str) -> None:
    """Remove a job definition and its schedule; executions accepted before still run.

    A job that is defined in code can be removed once no live worker has that code. A job that other schedules start
    can be removed once these schedules are deleted or start another job.
    """
    with database.write() as connection:
        row = _lock_expected(connection, name, expected)
        if row.owner is JobOwner.CODE and any(
            row.definition.task in worker.tasks for worker in workers.list_live(connection)
        ):
            raise _make_owned_by_code_error(row)
        starting = schedule_queries.list_names_by_job(connection, name)
        if starting:
            raise JobInUse(f"job {name} is started by {_format_names('schedule', starting)}; delete them first")
        now = clock.now()
        evaluator.evaluate_job_schedule(connection, name, now)
        jobs.delete(connection, name, actor, now)


def get(database: Database, name: str) -> JobView:
    """Return a job definition. Raises `JobNotFound`."""
    with database.read() as connection:
        row = lookup.find_job(connection, name)
        task = tasks.get(connection, row.definition.task)
    return JobView(row, task.parameters if task else ())


def list_page(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[JobView]:
    """Return a page of job definitions, sorted by name."""
    with database.read() as connection:
        page = jobs.list_page(connection, limit, cursor)
        task_rows = tasks.get_many(connection, [row.definition.task for row in page.items])
    return page.replace_items([JobView(row, _get_parameters(task_rows, row)) for row in page.items])


def get_task(database: Database, name: str) -> TaskRow:
    """Return a task. Raises `TaskNotFound`."""
    with database.read() as connection:
        return lookup.find_task(connection, name)


def list_tasks(database: Database, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[TaskRow]:
    """Return a page of tasks, sorted by name."""
    with database.read() as connection:
        return tasks.list_page(connection, limit, cursor)


def _check_editable(connection: sa.Connection, name: str, expected: ExpectedRevisions) -> None:
    """Raise an error unless the job may be changed over the API and its revision is an expected one."""
    row = _lock_expected(connection, name, expected)
    if row.owner is JobOwner.CODE:
        raise _make_owned_by_code_error(row)


def _make_owned_by_code_error(row: JobRow) -> JobOwnedByCode:
    name, task = row.definition.name, row.definition.task
    return JobOwnedByCode(f"job {name} is defined in code that a live worker has (task {task}); change it there")


def _lock_expected(connection: sa.Connection, name: str, expected: ExpectedRevisions) -> JobRow:
    """Lock and return the job. Raises `PreconditionFailed` unless its revision is an expected one."""
    row = lookup.find_job(connection, name, lock=True)
    if expected is not None and row.revision not in expected:
        raise PreconditionFailed(f"job {name} is at revision {row.revision} now; read it again, then repeat the change")
    return row


def _save(connection: sa.Connection, clock: Clock, definition: JobDefinition, actor: str) -> JobView:
    try:
        task = lookup.find_task(connection, definition.task)
    except TaskNotFound as error:
        raise InvalidInput(error.detail, [FieldError("/task", error.code, error.detail)]) from None
    raise_for_problems(definition_validation.validate_definition(definition, task.parameters))
    lookup.check_queue(connection, definition.queue, "/queue")
    trigger_rules.check_triggers(connection, definition)
    if definition.schedule is not None:
        job_schedule = schedule.parse_job_schedule(definition.name, definition.schedule)
        definition = replace(definition, schedule=schedule.to_job_json(job_schedule))
    definition = replace(definition, policies=policies.normalize(definition.policies)[0])
    now = clock.now()
    evaluator.evaluate_job_schedule(connection, definition.name, now)
    return JobView(jobs.upsert(connection, definition, JobOwner.API, actor, now), task.parameters)


def _format_names(noun: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMES_SHOWN])
    if len(names) == 1:
        return f"{noun} {shown}"
    return f"{noun}s {shown}" + (f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else "")


def _get_parameters(tasks_by_name: dict[str, TaskRow], row: JobRow) -> tuple[Parameter, ...]:
    task = tasks_by_name.get(row.definition.task)
    return task.parameters if task else ()
