"""Errors for requests that JobWorker cannot fulfill.

All of them derive from one base class. Each class carries a stable `code`; the HTTP status is decided in one table at
the edge (`api/problems.py`), and the CLI prints `str(error)`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """A problem at one place of the input.

    `pointer` is an RFC 6901 JSON pointer into the request body (`/parameters/format`), or the name of a query parameter
    or header.
    """

    pointer: str
    code: str
    message: str


def format_pointer(*parts: str | int) -> str:
    """Return the RFC 6901 pointer to a place: `format_pointer("executions", 17)` → `/executions/17`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


class JobWorkerError(Exception):
    """Base of every error that JobWorker raises on purpose."""

    code = "internal_error"

    def __init__(self, detail: str, errors: Iterable[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class InvalidInput(JobWorkerError):
    """Error for input that is well-formed and wrong; `errors` lists the places."""

    code = "invalid_input"


def raise_for_problems(problems: Sequence[FieldError]) -> None:
    """Raise `InvalidInput` if there is any problem."""
    if problems:
        raise InvalidInput("; ".join(problem.message for problem in problems), problems)


class InvalidParameters(InvalidInput):
    """Error for parameters that the task does not accept."""

    code = "invalid_parameters"


class InvalidDependency(InvalidInput):
    """Error for a dependency on an execution that does not exist, or has already ended with another outcome."""

    code = "invalid_dependency"


class UnknownQueue(InvalidInput):
    """Error for an unknown queue name in the input; the message lists the existing queues."""

    code = "unknown_queue"


class InvalidCursor(InvalidInput):
    """Error for a page cursor that no list has returned."""

    code = "invalid_cursor"


class IdempotencyKeyReused(JobWorkerError):
    """Error for a request that repeats the Idempotency-Key of a different request."""

    code = "idempotency_key_reused"


class NotFound(JobWorkerError):
    """Error for a requested object that does not exist."""

    code = "not_found"


class JobNotFound(NotFound):
    """Error for a name that no job definition has."""

    code = "job_not_found"


class TaskNotFound(NotFound):
    """Error for a task that no worker has announced."""

    code = "task_not_found"


class ExecutionNotFound(NotFound):
    """Error for an id that no execution has."""

    code = "execution_not_found"


class FileNotFound(NotFound):
    """Error for a name that no stored file of the execution has here."""

    code = "file_not_found"


class FileOnOtherHost(NotFound):
    """Error for a file on the disk of another host."""

    code = "file_elsewhere"


class RevisionNotFound(NotFound):
    """Error for a revision that has never existed."""

    code = "revision_not_found"


class ScheduleNotFound(NotFound):
    """Error for a name or id that no schedule has."""

    code = "schedule_not_found"


class CalendarNotFound(NotFound):
    """Error for a name that no calendar has."""

    code = "calendar_not_found"


class QueueNotFound(NotFound):
    """Error for a name that no queue has."""

    code = "queue_not_found"


class BatchNotFound(NotFound):
    """Error for an id that no batch or workflow has."""

    code = "batch_not_found"


class Conflict(JobWorkerError):
    """Error for a request that conflicts with the current state."""

    code = "conflict"


class JobExists(Conflict):
    """Error for a new job definition with an existing name."""

    code = "job_exists"


class JobOwnedByCode(Conflict):
    """Error for a change of a job definition that comes from code and can only be changed there."""

    code = "job_owned_by_code"


class CalendarExists(Conflict):
    """Error for a new calendar with an existing name."""

    code = "calendar_exists"


class CalendarOwnedByCode(Conflict):
    """Error for a change of a calendar that comes from code and can only be changed there."""

    code = "calendar_owned_by_code"


class CalendarInUse(Conflict):
    """Error for the removal of a calendar that schedules use; the message names the schedules."""

    code = "calendar_in_use"


class JobDisabled(Conflict):
    """Error for a submission to a disabled job."""

    code = "job_disabled"


class JobRemoved(Conflict):
    """Error for a submission to a job whose code has been removed: no worker declares its task any more."""

    code = "job_removed"


class JobInUse(Conflict):
    """Error for the removal of a job that schedules start."""

    code = "job_scheduled"


class QueueInUse(Conflict):
    """Error for the removal of a queue that is in use; the message names its users."""

    code = "queue_in_use"


class ScheduleExists(Conflict):
    """Error for a new schedule with an existing name."""

    code = "schedule_exists"


class ScheduleOwnedElsewhere(Conflict):
    """Error for a change of a schedule that comes from code or from the definition of its job.

    The schedule can only be changed there.
    """

    code = "schedule_owned_elsewhere"


class UniqueKeyConflict(Conflict):
    """Error for a submission whose unique key another execution holds; the message names the execution."""

    code = "not_unique"


class ExecutionNotFinished(Conflict):
    """Error for a request for the result of an unfinished execution."""

    code = "not_finished"


class ExecutionNotCancellable(Conflict):
    """Error for the cancellation of an execution that has ended already."""

    code = "not_cancellable"


class NotADeadLetter(Conflict):
    """Error for an execution that did not end badly, or whose dead letter is closed already."""

    code = "not_a_dead_letter"


class UnreadableRow(Conflict):
    """Error for a stored row in another format than this version writes; the message states the difference."""

    code = "unreadable"


class PreconditionRequired(JobWorkerError):
    """Error for a change request without an If-Match header."""

    code = "precondition_required"


class PreconditionFailed(JobWorkerError):
    """Error for an If-Match header with a revision that is no longer the current one."""

    code = "precondition_failed"


class ServiceBusy(JobWorkerError):
    """Error for a request that the service cannot handle now; a repetition may succeed later."""

    code = "busy"


class DatabaseBusy(ServiceBusy):
    """Error for a database that was locked for longer than the caller could wait; nothing was changed."""

    code = "database_busy"


class QueryTooSlow(ServiceBusy):
    """Error for a query that would occupy the processor for too long."""

    code = "query_too_slow"


class TooManyStreams(JobWorkerError):
    """Error for a client that has the maximum number of live streams."""

    code = "too_many_streams"


class ConfigurationError(JobWorkerError):
    """Error for a configuration that JobWorker cannot start with; the message states the necessary change."""

    code = "misconfigured"
