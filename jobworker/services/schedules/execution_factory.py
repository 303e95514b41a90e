"""Factory of the executions of occurrences; the part that schedule, job and task determine is cached as a template."""

import datetime as dt
import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import orjson

from jobworker.domain.errors import InvalidParameters, JobDisabled, JobRemoved
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import limits
from jobworker.domain.jobs.limits import ExecutionKeys
from jobworker.domain.schedules import jitter
from jobworker.domain.schedules.evaluation import EvaluationContext, PausePeriod, UnfinishedRuns
from jobworker.domain.schedules.timetable import Timetable, describe_exclusion
from jobworker.domain.submissions import start_deadline
from jobworker.services.schedules.compiler import CompiledSchedule
from jobworker.services.submissions import preparation
from jobworker.services.submissions.preparation import JobCatalog
from jobworker.store.executions.executions import NewExecution
from jobworker.store.jobs import JobRow
from jobworker.store.schedules.due_schedules import DueSchedule
from jobworker.store.tasks import TaskRow

#: Maximum number of cached templates (a few KB each).
_CACHE_SIZE = 20_000


@dataclass(frozen=True, slots=True)
class ExecutionTemplate:
    """The fields of `NewExecution` that all executions of a schedule share.

    `problem`: reason why the task rejects the parameters; None: it accepts them.
    """

    fields: Mapping[str, Any]
    expires: float | None
    problem: str | None


#: Templates by everything that determines them. Thousands of schedules may start one job with equal parameters.
_templates: dict[tuple[object, ...], ExecutionTemplate] = {}


def get_blocked_reason(catalog: JobCatalog, name: str) -> str | None:
    """Return the reason why no execution of a job may run, or None."""
    job = catalog.jobs.get(name)
    if job is None:
        return f"there is no job {name}"
    if not job.definition.enabled:
        return f"job {name} is disabled"
    task = catalog.tasks.get(job.definition.task)
    return preparation.describe_removed(name, task) if task is not None and task.removed_at is not None else None


def check_runnable(catalog: JobCatalog, name: str, prefix: str) -> None:
    """Raise `JobRemoved` or `JobDisabled`, with `prefix` as beginning of the message, if the job must not run."""
    why = get_blocked_reason(catalog, name)
    if why is not None:
        job = catalog.jobs.get(name)
        raise (JobRemoved if job and job.definition.enabled else JobDisabled)(f"{prefix}: {why}")


def is_in_bounds(timetable: Timetable, moment: dt.datetime) -> bool:
    """Return whether a time lies between the start and the end of a schedule, regardless of its rule."""
    begun = timetable.start is None or moment >= timetable.start
    return begun and (timetable.end is None or moment < timetable.end)


def build_evaluation_context(
    row: DueSchedule, compiled: CompiledSchedule, catalog: JobCatalog, busy: UnfinishedRuns, now: dt.datetime
) -> EvaluationContext:
    """Build the context in which the occurrences of a schedule are evaluated now."""
    schedule, pause = compiled.schedule, None
    if row.paused_at is not None:
        note = f": {row.pause_note}" if row.pause_note else ""
        why = f"paused by {row.paused_by} at {row.paused_at.isoformat(timespec='seconds')}{note}"
        pause = PausePeriod(row.paused_at, row.paused_until, why)
    return EvaluationContext(
        now=now,
        misfire=schedule.misfire,
        overlap=schedule.overlap,
        runs=row.runs,
        max_runs=schedule.max_runs,
        pause=pause,
        unavailable_reason=get_blocked_reason(catalog, row.job),
        find_forbidden_reason=functools.partial(describe_exclusion, compiled.timetable),
        unfinished=busy,
    )


def get_template(compiled: CompiledSchedule, catalog: JobCatalog, now: dt.datetime) -> ExecutionTemplate:
    """Return the execution template of a schedule. Its parameters are checked like those of a submission."""
    schedule = compiled.schedule
    job = catalog.jobs[schedule.job]
    task = catalog.tasks.get(job.definition.task)
    parameters_json = orjson.dumps(schedule.parameters, option=orjson.OPT_SORT_KEYS) if schedule.parameters else b""
    cache_key = (
        schedule.job,
        job.revision,
        task.updated_at if task else None,
        schedule.queue,
        schedule.priority,
        parameters_json,
    )
    template = _templates.get(cache_key)
    if template is None:
        template = _templates[cache_key] = _build_template(compiled, job, task, now)
        if len(_templates) > _CACHE_SIZE:
            del _templates[next(iter(_templates))]
    return template


def build_occurrence_execution(
    row: DueSchedule,
    compiled: CompiledSchedule,
    template: ExecutionTemplate,
    nominal_time: dt.datetime,
    now: dt.datetime,
) -> NewExecution:
    """Build the execution of an occurrence, due at its nominal time plus its jitter or spread, or now."""
    schedule, key = compiled.schedule, preparation.make_id(now)
    spread = jitter.compute_delay(row.id, nominal_time, schedule.jitter, schedule.spread)
    due_at, state = now, ExecutionState.QUEUED
    if spread and nominal_time + spread > now:
        due_at, state = nominal_time + spread, ExecutionState.SCHEDULED
    own = {
        "id": key,
        "correlation_id": key,
        "schedule_id": row.id,
        "scheduled_for": nominal_time,
        "due_at": due_at,
        "state": state,
        "expires_at": start_deadline.compute_deadline(due_at, template.expires),
    }
    return NewExecution(**{**template.fields, **own})


def _build_template(
    compiled: CompiledSchedule, job: JobRow, task: TaskRow | None, now: dt.datetime
) -> ExecutionTemplate:
    schedule, definition = compiled.schedule, job.definition
    parameters: Mapping[str, object] = {**definition.defaults, **schedule.parameters}
    problem = None
    if task is not None:
        try:
            parameters = preparation.check_parameters(task.parameters, parameters, "/parameters")
        except InvalidParameters as error:
            problem = error.detail
    accepted = task.parameters if task else ()
    keys = (
        ExecutionKeys() if problem else limits.compute_keys(definition.name, definition.policies, parameters, accepted)
    )
    own = {
        "queue": schedule.queue or definition.queue,
        "priority": definition.priority if schedule.priority is None else schedule.priority,
        **keys._asdict(),
    }
    execution = preparation.build_execution(definition, job.revision, parameters, now, **own)
    return ExecutionTemplate(
        {field.name: getattr(execution, field.name) for field in fields(execution)}, definition.expires, problem
    )
