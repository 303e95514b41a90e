"""The task catalog: registration of the tasks that workers announce, and of the job that each task defines."""

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain.errors import Conflict
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import JobDefinition, JobOwner, OnWorkerLost
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.jobs.retry import MAX_ATTEMPTS
from jobworker.domain.schedules.schedule import ScheduleOwner
from jobworker.services.schedules import evaluator
from jobworker.services.workflows import trigger_rules
from jobworker.store import jobs, queues, tasks, workers
from jobworker.store.database.database import UNAVAILABLE, Database
from jobworker.store.schedules import schedule_rows
from jobworker.store.tasks import TaskRow

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerOffer:
    """The tasks and queues of a live worker. `complete`: all modules of its package could be imported."""

    package: str
    complete: bool
    queues: Collection[str]
    tasks: Collection[str]
    started_at: dt.datetime


def mark_removed_tasks(connection: sa.Connection, offers: Sequence[WorkerOffer], now: dt.datetime) -> None:
    """Mark tasks whose code has been removed, and unmark those that a worker declares again.

    A task is removed if no live worker declares it, although one should: it imports the package from which the task
    was announced, all of it; it consumes the task's queue; and it started after the last worker that had the task.
    """
    offered = {name for offer in offers for name in offer.tasks}
    rows = tasks.list_announced_or_removed(connection, {offer.package for offer in offers})
    back = [row.name for row in rows if row.removed_at is not None and row.name in offered]
    missing = [row for row in rows if row.removed_at is None and row.name not in offered]
    removed = [row.name for row in missing if _is_removed(connection, row, offers)]
    if back:
        tasks.mark_removed(connection, back, None)
        logger.info("tasks_declared_again", tasks=sorted(back))
    if removed:
        tasks.mark_removed(connection, removed, now)
        logger.warning("tasks_removed", tasks=sorted(removed), why="no worker declares them any more")


def _is_removed(connection: sa.Connection, row: TaskRow, offers: Sequence[WorkerOffer]) -> bool:
    queue = row.options.get("queue")
    candidates = [
        offer for offer in offers if offer.complete and offer.package == row.package and queue in offer.queues
    ]
    if not candidates:
        return False
    later_workers = workers.list_started_since(connection, max(offer.started_at for offer in candidates))
    return not any(row.name in worker.tasks for worker in later_workers)


def register_tasks(
    database: Database,
    clock: Clock,
    task_specs: Sequence[Mapping[str, Any]],
    code_version: str,
    package: str | None = None,
) -> None:
    """Insert or update the tasks of one code version and their jobs. A job created over HTTP is not overwritten.

    `package` is the package imported by the announcing worker; None if no worker announced the tasks. A task that
    cannot be stored is logged and skipped; the others are registered.
    """
    with database.write() as connection:
        now = clock.now()
        for described in task_specs:
            try:
                with connection.begin_nested():
                    _register_task(connection, described, code_version, package, now)
            except (*UNAVAILABLE, sa.exc.IntegrityError, Conflict):
                raise  # The task is not the cause: the whole catalog is registered at the next try.
            except Exception:
                logger.exception("task_not_learnt", task=described.get("name"))


def register_unannounced_tasks(
    database: Database, clock: Clock, task_specs: Sequence[Mapping[str, Any]], code_version: str
) -> None:
    """Register tasks of code on this host that no worker has announced yet.

    A task that a worker has announced stays as it is, because workers run the authoritative code.
    """
    with database.read() as connection:
        registered_names = set(tasks.list_names(connection))
    register_tasks(
        database,
        clock,
        [described for described in task_specs if described["name"] not in registered_names],
        code_version,
    )


def _register_task(
    connection: sa.Connection, task_spec: Mapping[str, Any], code_version: str, package: str | None, now: dt.datetime
) -> None:
    parameters = tuple(Parameter.from_json(item) for item in task_spec["parameters"])
    options = dict(task_spec["options"])
    row = TaskRow(task_spec["name"], task_spec["description"], parameters, options, code_version, now, package)
    tasks.upsert(connection, row)
    present = jobs.get(connection, row.name)
    if present is None or present.owner is JobOwner.CODE:
        definition = _drop_conflicting_schedule(connection, _drop_cyclic_triggers(connection, _build_definition(row)))
        evaluator.evaluate_job_schedule(connection, row.name, now)
        jobs.upsert(connection, definition, JobOwner.CODE, f"code:{code_version}", now)
        queues.upsert_many(connection, [definition.queue], now)
    else:
        logger.info(
            "job_kept", job=row.name, why="the job was created over HTTP; the task with its name does not replace it"
        )


def _drop_cyclic_triggers(connection: sa.Connection, definition: JobDefinition) -> JobDefinition:
    """Return the definition, without its triggers if these form a cycle, because code cannot be rejected."""
    path = trigger_rules.find_cycle(connection, definition.name, definition.triggers) if definition.triggers else None
    if path is None:
        return definition
    logger.error("triggers_left_out", job=definition.name, cycle=" -> ".join(path))
    return replace(definition, policies={**definition.policies, "trigger_after": []})


def _drop_conflicting_schedule(connection: sa.Connection, definition: JobDefinition) -> JobDefinition:
    """Return the definition, without its schedule if a schedule with its name has another owner."""
    existing = schedule_rows.get_by_name(connection, definition.name) if definition.schedule is not None else None
    if existing is None or existing.owner is ScheduleOwner.JOB:
        return definition
    why = f"there is a schedule of this name already, by {existing.owner.value}: remove that one, or the one in @job"
    logger.error("schedule_left_out", job=definition.name, why=why)
    return replace(definition, schedule=None)


def _build_definition(task: TaskRow) -> JobDefinition:
    options = task.options
    declared, _ = policies.normalize(options.get("policies", {}))
    if declared["retry"]["max_attempts"] is None:
        attempts = _convert_max_retries(task.name, options.get("max_retries"))
        declared["retry"] = {**declared["retry"], "max_attempts": attempts}
    return JobDefinition(
        name=task.name,
        task=task.name,
        description=task.description,
        queue=options["queue"],
        priority=options["priority"],
        time_limit=options.get("time_limit"),
        soft_time_limit=options.get("soft_time_limit"),
        expires=options.get("expires"),
        on_worker_lost=OnWorkerLost(options["on_worker_lost"]),
        schedule=options.get("schedule"),
        tags=tuple(options.get("tags", ())),
        policies=declared,
    )


def _convert_max_retries(job: str, retries: Any) -> int | None:
    """Convert Celery's `max_retries` to a number of attempts. Invalid values of plain tasks are logged and ignored."""
    if retries is None:
        return None
    if type(retries) is not int or retries < 0:
        logger.warning("max_retries_ignored", job=job, max_retries=retries, why="it must be an integer, 0 or more")
        return None
    return min(retries + 1, MAX_ATTEMPTS)
