"""Start of jobs by triggers, when executions of other jobs end."""

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
import structlog

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.workflows.dependency import Dependency, ParentExecution, RequiredOutcome, is_required_outcome
from jobworker.domain.workflows.trigger import Trigger
from jobworker.services.submissions import preparation
from jobworker.store import unreadable_rows
from jobworker.store.executions import executions
from jobworker.store.executions.executions import NewExecution
from jobworker.store.workflows import dependency_rows, trigger_rows
from jobworker.store.workflows.dependency_rows import DependencyEdge

logger = structlog.get_logger(__name__)


def start_triggered_jobs(connection: sa.Connection, ended: Sequence[ParentExecution], now: dt.datetime) -> None:
    """Insert the executions that the ended ones trigger; they wait for their parents as any dependent does."""
    candidates = trigger_rows.list_after(connection, {execution.job for execution in ended}) if ended else []
    if not candidates:
        return
    firings: dict[tuple[str, str], tuple[ParentExecution, Trigger]] = {}
    for parent in ended:
        for trigger_row in candidates:
            if trigger_row.trigger.job == parent.job and is_required_outcome(trigger_row.trigger.on, parent.state):
                firings.setdefault((parent.id, trigger_row.job), (parent, trigger_row.trigger))
    done = trigger_rows.find_fired(connection, {parent for parent, _ in firings})
    catalog = preparation.load_catalog(connection, {job for _, job in firings})
    for (_, job), (parent, trigger) in firings.items():
        row = catalog.jobs.get(job)
        if (parent.id, job) in done or row is None:
            continue
        if not unreadable_rows.is_object(trigger.parameters):
            unreadable_rows.report(f"trigger of job {job} after {parent.job}", "parameters is not an object")
            continue
        if not row.definition.enabled:
            logger.info("trigger_of_disabled_job", job=job, after=parent.id)
            continue
        task = catalog.tasks.get(row.definition.task)
        if task is not None and task.removed_at is not None:
            logger.warning(
                "trigger_of_removed_job", job=job, after=parent.id, why=preparation.describe_removed(job, task)
            )
            continue
        _insert_execution(connection, parent, _build_execution(row.definition, row.revision, parent, trigger, now), now)


def _insert_execution(
    connection: sa.Connection, parent: ParentExecution, execution: NewExecution, now: dt.datetime
) -> None:
    executions.insert(connection, [execution], f"trigger:{parent.job}", now)
    dependency_rows.insert(connection, [DependencyEdge(execution.id, Dependency(parent.id, RequiredOutcome.ANY))])


def _build_execution(
    definition: JobDefinition, revision: int, parent: ParentExecution, trigger: Trigger, now: dt.datetime
) -> NewExecution:
    return preparation.build_execution(
        definition,
        revision,
        {**definition.defaults, **trigger.parameters},
        now,
        correlation_id=parent.correlation_id,
        state=ExecutionState.WAITING,
        waiting_for=1,
        triggered_by=parent.id,
        expires_at=None,
    )
