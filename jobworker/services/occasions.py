"""From an occurrence that fires to its execution: what schedule, job and task say together, worked out once."""

import datetime as dt
import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import orjson

from jobworker.domain import deadline, limits, spreading
from jobworker.domain.errors import InvalidParameters, JobDisabled, JobRemoved
from jobworker.domain.execution import State
from jobworker.domain.limits import Keys
from jobworker.domain.settling import Busy, Pause, Situation
from jobworker.domain.timetable import Timetable, forbidden_by
from jobworker.services import preparing
from jobworker.services.plans import Plan
from jobworker.services.preparing import Known
from jobworker.store.executions import NewExecution
from jobworker.store.jobs import JobRow
from jobworker.store.settling import Due
from jobworker.store.tasks import TaskRow

#: So many patterns are kept (a few KB each).
_KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Pattern:
    """What all executions that ask for the same have in common: the fields of `NewExecution`.

    `problem`: why its parameters are refused, if they are.
    """

    fields: Mapping[str, Any]
    expires: float | None
    problem: str | None


#: By what they depend on. Thousands of schedules may start the same job with the same parameters.
_patterns: dict[tuple[object, ...], Pattern] = {}


def closed(known: Known, name: str) -> str | None:
    """Why nothing of this job may run."""
    job = known.jobs.get(name)
    if job is None:
        return f"there is no job {name}"
    if not job.definition.enabled:
        return f"job {name} is disabled"
    task = known.tasks.get(job.definition.task)
    return preparing.removed(name, task) if task is not None and task.removed_at is not None else None


def refuse_closed(known: Known, name: str, what: str) -> None:
    """Raise `JobRemoved` or `JobDisabled`, saying that `what` cannot be done, if nothing of this job may run."""
    why = closed(known, name)
    if why is not None:
        job = known.jobs.get(name)
        raise (JobRemoved if job and job.definition.enabled else JobDisabled)(f"{what}: {why}")


def in_bounds(timetable: Timetable, moment: dt.datetime) -> bool:
    """Whether a moment that the rule does not name lies between the start and the end of a schedule."""
    begun = timetable.start is None or moment >= timetable.start
    return begun and (timetable.end is None or moment < timetable.end)


def situation(row: Due, plan: Plan, known: Known, busy: Busy, now: dt.datetime) -> Situation:
    """Everything that decides about occurrences of a schedule now."""
    schedule, pause = plan.schedule, None
    if row.paused_at is not None:
        note = f": {row.pause_note}" if row.pause_note else ""
        why = f"paused by {row.paused_by} at {row.paused_at.isoformat(timespec='seconds')}{note}"
        pause = Pause(row.paused_at, row.paused_until, why)
    return Situation(
        now=now,
        misfire=schedule.misfire,
        overlap=schedule.overlap,
        runs=row.runs,
        max_runs=schedule.max_runs,
        pause=pause,
        unavailable_reason=closed(known, row.job),
        find_forbidden_reason=functools.partial(forbidden_by, plan.timetable),
        unfinished=busy,
    )


def pattern(plan: Plan, known: Known, now: dt.datetime) -> Pattern:
    """What the executions of a schedule are like. Its parameters are checked like those of a submission."""
    schedule = plan.schedule
    job = known.jobs[schedule.job]
    task = known.tasks.get(job.definition.task)
    given = orjson.dumps(schedule.parameters, option=orjson.OPT_SORT_KEYS) if schedule.parameters else b""
    asked = (schedule.job, job.revision, task.updated_at if task else None, schedule.queue, schedule.priority, given)
    made = _patterns.get(asked)
    if made is None:
        made = _patterns[asked] = _pattern(plan, job, task, now)
        if len(_patterns) > _KEPT:
            del _patterns[next(iter(_patterns))]
    return made


def execution(row: Due, plan: Plan, like: Pattern, nominal: dt.datetime, now: dt.datetime) -> NewExecution:
    """The execution of one occurrence. It is due at its nominal time and its share of what spreads it, or now."""
    schedule, key = plan.schedule, preparing.make_id(now)
    spread = spreading.delay(row.id, nominal, schedule.jitter, schedule.spread)
    due_at, state = now, State.QUEUED
    if spread and nominal + spread > now:
        due_at, state = nominal + spread, State.SCHEDULED
    own = {
        "id": key,
        "correlation_id": key,
        "schedule_id": row.id,
        "scheduled_for": nominal,
        "due_at": due_at,
        "state": state,
        "expires_at": deadline.of(due_at, like.expires),
    }
    return NewExecution(**{**like.fields, **own})


def _pattern(plan: Plan, job: JobRow, task: TaskRow | None, now: dt.datetime) -> Pattern:
    schedule, definition = plan.schedule, job.definition
    given: Mapping[str, object] = {**definition.defaults, **schedule.parameters}
    problem = None
    if task is not None:
        try:
            given = preparing.check_parameters(task.parameters, given, "/parameters")
        except InvalidParameters as error:
            problem = error.detail
    accepted = task.parameters if task else ()
    keys = Keys() if problem else limits.keys(definition.name, definition.policies, given, accepted)
    own = {
        "queue": schedule.queue or definition.queue,
        "priority": definition.priority if schedule.priority is None else schedule.priority,
        **keys._asdict(),
    }
    made = preparing.new_execution(definition, job.revision, given, now, **own)
    return Pattern({each.name: getattr(made, each.name) for each in fields(made)}, definition.expires, problem)
