"""Preparation of executions: lookup and checks of a submission, before the write transaction begins."""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import sqlalchemy as sa

from jobworker.domain.errors import (
    FieldError,
    InvalidInput,
    InvalidParameters,
    JobDisabled,
    JobRemoved,
    JobWorkerError,
    TaskNotFound,
    format_pointer,
    raise_for_problems,
)
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.ids import IdFactory
from jobworker.domain.jobs import limits, parameters
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.jobs.limits import ExecutionKeys
from jobworker.domain.jobs.parameters import Parameter
from jobworker.domain.submissions import start_deadline
from jobworker.domain.submissions.submission import (
    Submission,
    compute_due_at_and_state,
    compute_expires,
    validate_submission,
)
from jobworker.domain.workflows import dependency, result_references
from jobworker.domain.workflows.dependency import Dependency
from jobworker.services import lookup
from jobworker.services.lookup import QueueLookup
from jobworker.store import jobs, tasks
from jobworker.store.executions.executions import NewExecution
from jobworker.store.jobs import JobRow
from jobworker.store.tasks import TaskRow

#: Maximum number of problems reported for one batch; more are usually repetitions.
_MAX_PROBLEMS = 100

_id_factory = IdFactory()


@dataclass(frozen=True, slots=True)
class JobCatalog:
    """The job definitions, tasks and queues that a submission names."""

    jobs: dict[str, JobRow]
    tasks: dict[str, TaskRow]
    queues: QueueLookup = field(default_factory=QueueLookup)

    def get_unique_policies(self) -> dict[str, Any]:
        """Return the `unique` policy of each job, by name."""
        return {name: row.definition.policies["unique"] for name, row in self.jobs.items()}


@dataclass(frozen=True, slots=True)
class PreparedExecution:
    """An execution that may be inserted, its dependencies, and its location in the request."""

    row: NewExecution
    depends_on: Sequence[Dependency] = ()
    location: str = ""


def load_catalog_for_job(connection: sa.Connection, name: str, queue: str | None) -> JobCatalog:
    """Load the catalog for a submission of one job. Raises `JobNotFound`."""
    row = lookup.find_job(connection, name)
    task = tasks.get(connection, row.definition.task)
    return JobCatalog({name: row}, {task.name: task} if task else {}, lookup.look_up_queues(connection, [queue]))


def load_catalog(connection: sa.Connection, names: Collection[str], queues: Iterable[str | None] = ()) -> JobCatalog:
    """Load the jobs that exist among `names`, their tasks, and the lookup of `queues`."""
    job_rows = jobs.get_many(connection, sorted({name for name in names if name.isprintable()}))
    task_names = sorted({row.definition.task for row in job_rows.values()})
    return JobCatalog(job_rows, tasks.get_many(connection, task_names), lookup.look_up_queues(connection, queues))


def prepare_executions(
    submissions: Sequence[Submission], catalog: JobCatalog, now: dt.datetime, batch_id: str
) -> list[PreparedExecution]:
    """Prepare the executions of a batch. Raises `InvalidInput` with its problems, up to a maximum number."""
    prepared: list[PreparedExecution] = []
    problems: list[FieldError] = []
    for index, submission in enumerate(submissions):
        where = format_pointer("executions", index)
        try:
            prepared.append(prepare_execution(submission, catalog, now, where, batch_id))
        except JobWorkerError as error:
            problems.extend(list_problems(error, where))
        if len(problems) >= _MAX_PROBLEMS:
            break
    raise_if_problems(problems, "executions of the batch")
    return prepared


def list_problems(error: JobWorkerError, location: str) -> Sequence[FieldError]:
    """Return the problems of one item of a larger request."""
    if isinstance(error, InvalidInput):
        return error.errors
    return [FieldError(f"{location}/job", error.code, error.detail)]


def raise_if_problems(problems: Sequence[FieldError], item_kind: str) -> None:
    """Raise `InvalidInput` if there are problems; `item_kind` names the items in the message."""
    if problems:
        raise InvalidInput(f"nothing was accepted, because some {item_kind} are wrong", problems[:_MAX_PROBLEMS])


def prepare_execution(
    submission: Submission,
    catalog: JobCatalog,
    now: dt.datetime,
    location: str = "",
    batch_id: str | None = None,
    sources: Collection[str] = (),
    tagged: bool = False,
) -> PreparedExecution:
    """Prepare the execution of a submission. Raises the problems of the submission.

    The parameters may refer to results of `sources` and of the dependencies. If they do, the limit keys and the unique
    key are computed when the references are resolved. `tagged`: see `allow_tagged` in `json_values.check`.
    """
    row = _get_runnable_job(submission.job, catalog, location)
    definition = row.definition
    raise_for_problems(validate_submission(submission, now, location))
    catalog.queues.check_exists(submission.queue, f"{location}/queue")
    dependencies = dependency.parse(submission.depends_on, f"{location}/depends_on")
    due_at, state = compute_due_at_and_state(submission, now)
    overrides = submission.compute_overrides() or {}
    expires = compute_expires(submission, due_at)
    if expires is not None:
        overrides["expires"] = expires
    new_id = make_id(now)
    sources = {*sources, *(condition.parent for condition in dependencies)}
    merged_parameters = _merge_parameters(submission, row, catalog, f"{location}/parameters", sources, tagged)
    late = bool(sources and result_references.find_referring_parameters(merged_parameters))
    keys = (
        ExecutionKeys()
        if late
        else limits.compute_keys(
            row.definition.name, definition.policies, merged_parameters, _get_accepted_parameters(row, catalog)
        )
    )
    execution = build_execution(
        definition,
        row.revision,
        merged_parameters,
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
        expires_at=start_deadline.compute_deadline(due_at, overrides.get("expires", definition.expires)),
        **keys._asdict(),
    )
    return add_dependencies(
        PreparedExecution(execution, (), location), dependencies, keep_deadline=submission.expires_at is not None
    )


def add_dependencies(
    prepared: PreparedExecution, new_dependencies: Sequence[Dependency], keep_deadline: bool = False
) -> PreparedExecution:
    """Add dependencies to an execution. Unless `keep_deadline`, its deadline is set when the execution is released."""
    if not new_dependencies:
        return prepared
    depends_on = [*prepared.depends_on, *new_dependencies]
    expires_at = prepared.row.expires_at if keep_deadline else None
    row = replace(prepared.row, state=ExecutionState.WAITING, waiting_for=len(depends_on), expires_at=expires_at)
    return replace(prepared, row=row, depends_on=depends_on)


def build_execution(
    definition: JobDefinition, revision: int, job_parameters: Mapping[str, Any], now: dt.datetime, **field_values: Any
) -> NewExecution:
    """Build an execution from a job definition, due now; `field_values` override the fields."""
    new_id = field_values.get("id") or make_id(now)
    values: dict[str, Any] = {
        "id": new_id,
        "job": definition.name,
        "job_revision": revision,
        "task": definition.task,
        "max_attempts": definition.max_attempts,
        "queue": definition.queue,
        "priority": definition.priority,
        "parameters": job_parameters,
        "correlation_id": new_id,
        "batch_id": None,
        "schedule_id": None,
        "scheduled_for": None,
        "due_at": now,
        "state": ExecutionState.QUEUED,
        "expires_at": start_deadline.compute_deadline(now, definition.expires),
    }
    return NewExecution(**{**values, **field_values})


def _get_runnable_job(name: str, catalog: JobCatalog, location: str) -> JobRow:
    row = catalog.jobs.get(name)
    if row is None:
        message = f"there is no job {name!r}; GET /api/v1/jobs lists all"
        raise InvalidInput(message, [FieldError(f"{location}/job", "job_not_found", message)])
    if not row.definition.enabled:
        raise JobDisabled(f"job {name} is disabled; enable it with PUT /api/v1/jobs/{name}")
    return row


def _merge_parameters(
    submission: Submission, row: JobRow, catalog: JobCatalog, location: str, sources: Collection[str], tagged: bool
) -> dict[str, object]:
    """Merge the submitted parameters into the defaults of the job definition, and check them against the task.

    A parameter that refers to a result is not checked here: its value is checked when the reference is resolved.
    """
    accepted = _get_accepted_parameters(row, catalog)
    merged_parameters = {**row.definition.defaults, **submission.parameters}
    if sources:
        raise_for_problems(result_references.validate(merged_parameters, sources, location))
        accepted = parameters.accept_any_value(accepted, result_references.find_referring_parameters(merged_parameters))
    return check_parameters(accepted, merged_parameters, location, tagged)


def _get_accepted_parameters(row: JobRow, catalog: JobCatalog) -> Sequence[Parameter]:
    """Return the parameters that the task of a job accepts. Raises `TaskNotFound`, `JobRemoved`."""
    task = catalog.tasks.get(row.definition.task)
    if task is None:
        raise TaskNotFound(f"job {row.definition.name} runs task {row.definition.task}, which no worker announced yet")
    if task.removed_at is not None:
        raise JobRemoved(describe_removed(row.definition.name, task))
    return task.parameters


def describe_removed(job: str, task: TaskRow) -> str:
    """Return an error message about a job whose code has been removed."""
    return (
        f"the code of job {job} has been removed: since {task.removed_at:%Y-%m-%d %H:%M:%S %Z} no worker declares its "
        f"task {task.name}, last seen in code version {task.code_version}; start a worker that has it, or delete the "
        f"job with DELETE /api/v1/jobs/{job}"
    )


def check_parameters(
    accepted: Sequence[Parameter], raw_parameters: Mapping[str, Any], location: str, tagged: bool = False
) -> dict[str, Any]:
    """Return the checked parameters. Raises `InvalidParameters` if the task rejects them or they are too large."""
    checked = parameters.check(accepted, raw_parameters, location, tagged)
    size = len(orjson.dumps(checked))
    if size > parameters.MAX_PARAMETERS_BYTES:
        message = f"the parameters have {size} bytes as JSON; at most {parameters.MAX_PARAMETERS_BYTES} are allowed"
        raise InvalidParameters(message, [FieldError(location, "too_large", message)])
    return checked


def make_id(now: dt.datetime) -> str:
    """Return a new id, which sorts after all earlier ones."""
    return _id_factory.create_id(int(now.timestamp() * 1000))
