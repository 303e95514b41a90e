"""From what somebody asks for to the row of an execution: looked up and checked, before any transaction writes."""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import sqlalchemy as sa

from jobworker.domain import admission, deadline, dependencies, limits, parameters, references
from jobworker.domain.admission import Submission
from jobworker.domain.dependencies import Dependency
from jobworker.domain.errors import (
    FieldError,
    InvalidInput,
    InvalidParameters,
    JobDisabled,
    JobRemoved,
    JobWorkerError,
    TaskNotFound,
    pointer,
)
from jobworker.domain.execution import State
from jobworker.domain.ids import IdFactory
from jobworker.domain.job import Definition
from jobworker.domain.limits import Keys
from jobworker.domain.parameters import Parameter
from jobworker.services import finding
from jobworker.services.finding import Queues
from jobworker.store import jobs, tasks
from jobworker.store.executions import NewExecution
from jobworker.store.jobs import JobRow
from jobworker.store.tasks import TaskRow

#: So many problems of one batch are told; whoever has more of them has the same one many times.
_TOLD = 100

_ids = IdFactory()


@dataclass(frozen=True, slots=True)
class Known:
    """The definitions and tasks that a submission names, and what it has to know of the queues."""

    jobs: dict[str, JobRow]
    tasks: dict[str, TaskRow]
    queues: Queues = field(default_factory=Queues)

    def get_unique_policies(self) -> dict[str, Any]:
        """What each job says about unique executions."""
        return {name: row.definition.policies["unique"] for name, row in self.jobs.items()}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An execution that may be accepted, what it depends on, and where in the request it stands."""

    row: NewExecution
    depends_on: Sequence[Dependency] = ()
    location: str = ""


def look_up_one(connection: sa.Connection, name: str, queue: str | None) -> Known:
    """What a submission of this job names; raises `JobNotFound`."""
    row = finding.job(connection, name)
    task = tasks.get(connection, row.definition.task)
    return Known({name: row}, {task.name: task} if task else {}, finding.named_queues(connection, [queue]))


def look_up(connection: sa.Connection, names: Collection[str], queues: Iterable[str | None] = ()) -> Known:
    """Those of these jobs that there are, their tasks, and which of these queues do not exist."""
    named = jobs.some(connection, sorted({name for name in names if name.isprintable()}))
    needed = sorted({row.definition.task for row in named.values()})
    return Known(named, tasks.some(connection, needed), finding.named_queues(connection, queues))


def prepare_all(submissions: Sequence[Submission], known: Known, now: dt.datetime, batch_id: str) -> list[Prepared]:
    """The executions of a batch; raises every problem of it, up to a sensible number."""
    prepared: list[Prepared] = []
    problems: list[FieldError] = []
    for index, submission in enumerate(submissions):
        where = pointer("executions", index)
        try:
            prepared.append(prepare(submission, known, now, where, batch_id))
        except JobWorkerError as error:
            problems.extend(problems_of(error, where))
        if len(problems) >= _TOLD:
            break
    refuse(problems, "executions of the batch")
    return prepared


def problems_of(error: JobWorkerError, where: str) -> Sequence[FieldError]:
    """What is wrong in one item of a larger request."""
    if isinstance(error, InvalidInput):
        return error.errors
    return [FieldError(f"{where}/job", error.code, error.detail)]


def refuse(problems: Sequence[FieldError], what: str) -> None:
    """Raise `InvalidInput` if there is any problem."""
    if problems:
        raise InvalidInput(f"nothing was accepted, because some {what} are wrong", problems[:_TOLD])


def prepare(
    submission: Submission,
    known: Known,
    now: dt.datetime,
    where: str = "",
    batch_id: str | None = None,
    sources: Collection[str] = (),
    tagged: bool = False,
) -> Prepared:
    """The execution that this submission asks for; raises what is wrong with it.

    Its parameters may refer to the results of `sources`, and of what it depends on. If they do, its keys are those
    of what they come to, when that is known. `tagged` as in `json_values.check`.
    """
    row = _runnable(submission.job, known, where)
    definition = row.definition
    admission.refuse(admission.check_submission(submission, now, where))
    known.queues.check_exists(submission.queue, f"{where}/queue")
    needed = dependencies.parse(submission.depends_on, f"{where}/depends_on")
    due_at, state = admission.due(submission, now)
    overrides = submission.compute_overrides() or {}
    expires = admission.expires(submission, due_at)
    if expires is not None:
        overrides["expires"] = expires
    new_id = make_id(now)
    sources = {*sources, *(each.parent for each in needed)}
    given = _parameters(submission, row, known, f"{where}/parameters", sources, tagged)
    late = bool(sources and references.names(given))
    keys = Keys() if late else limits.keys(row.definition.name, definition.policies, given, _accepted(row, known))
    made = new_execution(
        definition,
        row.revision,
        given,
        now,
        id=new_id,
        max_attempts=overrides.get("retry", {}).get("max_attempts") or definition.max_attempts,
        queue=submission.queue or definition.queue,
        priority=definition.priority if submission.priority is None else submission.priority,
        correlation_id=submission.correlation_id or new_id,
        batch_id=batch_id,
        due_at=due_at,
        state=state,
        overrides=overrides or None,
        expires_at=deadline.of(due_at, overrides.get("expires", definition.expires)),
        **keys._asdict(),
    )
    return waiting(Prepared(made, (), where), needed, keep_deadline=submission.expires_at is not None)


def waiting(one: Prepared, needed: Sequence[Dependency], keep_deadline: bool = False) -> Prepared:
    """The execution when it waits for these, too. A deadline that counts from when it is due is set when it goes on."""
    if not needed:
        return one
    depends_on = [*one.depends_on, *needed]
    expires_at = one.row.expires_at if keep_deadline else None
    row = replace(one.row, state=State.WAITING, waiting_for=len(depends_on), expires_at=expires_at)
    return replace(one, row=row, depends_on=depends_on)


def new_execution(
    definition: Definition, revision: int, given: Mapping[str, Any], now: dt.datetime, **own: Any
) -> NewExecution:
    """An execution as its definition says, due now; `own` is what it has of its own."""
    new_id = own.get("id") or make_id(now)
    values: dict[str, Any] = {
        "id": new_id,
        "job": definition.name,
        "job_revision": revision,
        "task": definition.task,
        "max_attempts": definition.max_attempts,
        "queue": definition.queue,
        "priority": definition.priority,
        "parameters": given,
        "correlation_id": new_id,
        "batch_id": None,
        "schedule_id": None,
        "scheduled_for": None,
        "due_at": now,
        "state": State.QUEUED,
        "expires_at": deadline.of(now, definition.expires),
    }
    return NewExecution(**{**values, **own})


def _runnable(name: str, known: Known, where: str) -> JobRow:
    row = known.jobs.get(name)
    if row is None:
        message = f"there is no job {name!r}; GET /api/v1/jobs lists all"
        raise InvalidInput(message, [FieldError(f"{where}/job", "job_not_found", message)])
    if not row.definition.enabled:
        raise JobDisabled(f"job {name} is disabled; enable it with PUT /api/v1/jobs/{name}")
    return row


def _parameters(
    submission: Submission, row: JobRow, known: Known, where: str, sources: Collection[str], tagged: bool
) -> dict[str, object]:
    """The definition's defaults overlaid by what was submitted, as the task accepts it.

    What refers to a result is taken as it is: its value is checked when there is one.
    """
    accepted = _accepted(row, known)
    given = {**row.definition.defaults, **submission.parameters}
    if sources:
        admission.refuse(references.check(given, sources, where))
        accepted = parameters.with_anything(accepted, references.names(given))
    return check_parameters(accepted, given, where, tagged)


def _accepted(row: JobRow, known: Known) -> Sequence[Parameter]:
    """What the task of a job accepts."""
    task = known.tasks.get(row.definition.task)
    if task is None:
        raise TaskNotFound(f"job {row.definition.name} runs task {row.definition.task}, which no worker announced yet")
    if task.removed_at is not None:
        raise JobRemoved(removed(row.definition.name, task))
    return task.parameters


def removed(job: str, task: TaskRow) -> str:
    """The text about a job whose code has been removed."""
    return (
        f"the code of job {job} has been removed: since {task.removed_at:%Y-%m-%d %H:%M:%S %Z} no worker declares its "
        f"task {task.name}, last seen in code version {task.code_version}; start a worker that has it, or delete the "
        f"job with DELETE /api/v1/jobs/{job}"
    )


def check_parameters(
    accepted: Sequence[Parameter], given: Mapping[str, Any], where: str, tagged: bool = False
) -> dict[str, Any]:
    """`given`, if the task accepts it and it is not too much; raises `InvalidParameters`."""
    checked = parameters.validate(accepted, given, where, tagged)
    size = len(orjson.dumps(checked))
    if size > parameters.MAX_BYTES:
        message = f"the parameters have {size} bytes as JSON; at most {parameters.MAX_BYTES} are allowed"
        raise InvalidParameters(message, [FieldError(where, "too_large", message)])
    return checked


def make_id(now: dt.datetime) -> str:
    """A new id, later than all before."""
    return _ids.create_id(int(now.timestamp() * 1000))
