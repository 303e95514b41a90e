"""Jobs that start after others: the start."""

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
import structlog

from jobworker.domain.dependencies import Dependency, On, Parent, covers
from jobworker.domain.execution import State
from jobworker.domain.job import Definition
from jobworker.domain.triggers import Trigger
from jobworker.services import preparing
from jobworker.store import dependencies, executions, triggers, unreadable
from jobworker.store.dependencies import Edge
from jobworker.store.executions import NewExecution

logger = structlog.get_logger(__name__)


def fire(connection: sa.Connection, ended: Sequence[Parent], now: dt.datetime) -> None:
    """Make the executions that these ends start. They wait for their parents as any dependent does."""
    known = triggers.after(connection, {each.job for each in ended}) if ended else []
    if not known:
        return
    wanted: dict[tuple[str, str], tuple[Parent, Trigger]] = {}
    for parent in ended:
        for each in known:
            if each.trigger.job == parent.job and covers(each.trigger.on, parent.state):
                wanted.setdefault((parent.id, each.job), (parent, each.trigger))
    done = triggers.fired(connection, {parent for parent, _ in wanted})
    known_jobs = preparing.look_up(connection, {job for _, job in wanted})
    for (_, job), (parent, trigger) in wanted.items():
        row = known_jobs.jobs.get(job)
        if (parent.id, job) in done or row is None:
            continue
        if not unreadable.is_object(trigger.parameters):
            unreadable.note(f"trigger of job {job} after {parent.job}", "parameters is no object")
            continue
        if not row.definition.enabled:
            logger.info("trigger_of_disabled_job", job=job, after=parent.id)
            continue
        task = known_jobs.tasks.get(row.definition.task)
        if task is not None and task.removed_at is not None:
            logger.warning("trigger_of_removed_job", job=job, after=parent.id, why=preparing.removed(job, task))
            continue
        _start(connection, parent, _execution(row.definition, row.revision, parent, trigger, now), now)


def _start(connection: sa.Connection, parent: Parent, made: NewExecution, now: dt.datetime) -> None:
    executions.insert(connection, [made], f"trigger:{parent.job}", now)
    dependencies.insert(connection, [Edge(made.id, Dependency(parent.id, On.ANY))])


def _execution(
    definition: Definition, revision: int, parent: Parent, trigger: Trigger, now: dt.datetime
) -> NewExecution:
    return preparing.new_execution(
        definition,
        revision,
        {**definition.defaults, **trigger.parameters},
        now,
        correlation_id=parent.correlation_id,
        state=State.WAITING,
        waiting_for=1,
        triggered_by=parent.id,
        expires_at=None,
    )
