"""Everything that can be wrong with what somebody asked for.

One tree with one base. Each class carries a stable `code`; the HTTP status is decided in one table
at the edge (`api/problems.py`), the CLI prints `str(error)`.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong in one place of the input.

    `pointer` is an RFC 6901 JSON pointer into the request body (`/parameters/format`), or the name of
    a query parameter or header.
    """

    pointer: str
    code: str
    message: str


def format_pointer(*parts: str | int) -> str:
    """The RFC 6901 pointer to a place: `pointer("executions", 17)` → `/executions/17`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


class JobWorkerError(Exception):
    """Base of every error that JobWorker raises on purpose."""

    code = "internal_error"

    def __init__(self, detail: str, errors: Iterable[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)


class InvalidInput(JobWorkerError):
    """The input was understood and is wrong; `errors` says where."""

    code = "invalid_input"


class InvalidParameters(InvalidInput):
    """The parameters do not fit what the task accepts."""

    code = "invalid_parameters"


class InvalidDependency(InvalidInput):
    """It depends on an execution that does not exist, or that has already ended otherwise."""

    code = "invalid_dependency"


class UnknownQueue(InvalidInput):
    """There is no queue of this name; the text lists those that exist."""

    code = "unknown_queue"


class InvalidCursor(InvalidInput):
    """A page was asked for with a cursor that no list handed out."""

    code = "invalid_cursor"


class IdempotencyKeyReused(JobWorkerError):
    """The same Idempotency-Key came with a different request."""

    code = "idempotency_key_reused"


class NotFound(JobWorkerError):
    """The thing asked for does not exist."""

    code = "not_found"


class JobNotFound(NotFound):
    """No job definition has this name."""

    code = "job_not_found"


class TaskNotFound(NotFound):
    """No worker has announced this task."""

    code = "task_not_found"


class ExecutionNotFound(NotFound):
    """No execution has this id."""

    code = "execution_not_found"


class FileNotFound(NotFound):
    """The execution has left no file of this name here."""

    code = "file_not_found"


class FileOnOtherHost(NotFound):
    """The file is on the disk of another host."""

    code = "file_elsewhere"


class RevisionNotFound(NotFound):
    """There never was such a revision."""

    code = "revision_not_found"


class ScheduleNotFound(NotFound):
    """No schedule has this name or id."""

    code = "schedule_not_found"


class CalendarNotFound(NotFound):
    """No calendar has this name."""

    code = "calendar_not_found"


class QueueNotFound(NotFound):
    """No queue has this name."""

    code = "queue_not_found"


class BatchNotFound(NotFound):
    """No batch or workflow has this id."""

    code = "batch_not_found"


class Conflict(JobWorkerError):
    """The request does not fit the present state."""

    code = "conflict"


class JobExists(Conflict):
    """A definition with this name is there already."""

    code = "job_exists"


class JobOwnedByCode(Conflict):
    """The definition comes from code and can only be changed there."""

    code = "job_owned_by_code"


class CalendarExists(Conflict):
    """A calendar with this name is there already."""

    code = "calendar_exists"


class CalendarOwnedByCode(Conflict):
    """The calendar comes from code and can only be changed there."""

    code = "calendar_owned_by_code"


class CalendarInUse(Conflict):
    """Schedules name the calendar; the text names them."""

    code = "calendar_in_use"


class JobDisabled(Conflict):
    """The job accepts no submissions at present."""

    code = "job_disabled"


class JobRemoved(Conflict):
    """The job's code has been removed: no worker declares its task any more."""

    code = "job_removed"


class JobInUse(Conflict):
    """Schedules would start the job that is to be removed."""

    code = "job_scheduled"


class QueueInUse(Conflict):
    """The queue cannot be removed; the text says what uses it."""

    code = "queue_in_use"


class ScheduleExists(Conflict):
    """A schedule with this name is there already."""

    code = "schedule_exists"


class ScheduleOwnedElsewhere(Conflict):
    """The schedule comes from code, or from the definition of its job, and can only be changed there."""

    code = "schedule_owned_elsewhere"


class UniqueKeyConflict(Conflict):
    """Another execution has the unique key; the text names it."""

    code = "not_unique"


class ExecutionNotFinished(Conflict):
    """The execution has no result yet."""

    code = "not_finished"


class ExecutionNotCancellable(Conflict):
    """The execution has ended already."""

    code = "not_cancellable"


class NotADeadLetter(Conflict):
    """The execution did not end badly, or somebody has decided about it already."""

    code = "not_a_dead_letter"


class UnreadableRow(Conflict):
    """What the database holds of it is not what this version writes there; the text says what."""

    code = "unreadable"


class PreconditionRequired(JobWorkerError):
    """A change came without If-Match."""

    code = "precondition_required"


class PreconditionFailed(JobWorkerError):
    """If-Match names a revision that is no longer the current one."""

    code = "precondition_failed"


class ServiceBusy(JobWorkerError):
    """The service cannot take this now; the same request may succeed later."""

    code = "busy"


class DatabaseBusy(ServiceBusy):
    """The database was locked for longer than the caller could wait; nothing was changed."""

    code = "database_busy"


class QueryTooSlow(ServiceBusy):
    """Finding what was asked for would keep the processor from others for too long."""

    code = "query_too_slow"


class TooManyStreams(JobWorkerError):
    """This client has as many live streams open as one may."""

    code = "too_many_streams"


class ConfigurationError(JobWorkerError):
    """JobWorker cannot start like this; the text says what to change."""

    code = "misconfigured"
