"""The outcome of an attempt, as the kind and data of its closing event."""

import datetime as dt
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from jobworker import declare
from jobworker.declare import Abort, JobCancelled, Snooze
from jobworker.domain.executions.events import EventKind
from jobworker.domain.json import json_values
from jobworker.domain.submissions import start_deadline

#: Maximum size of a result in the execution's row, and of one in a file (bytes of JSON).
MAX_RESULT = 64 * 1024
MAX_RESULT_FILE = 100 * 1024 * 1024

#: Maximum lengths of an error message, a traceback and a reason (characters).
_MAX_MESSAGE = 4_000
_MAX_TRACEBACK = 20_000
_MAX_REASON = 200

#: Maximum length of the name of an exception's class (characters).
_MAX_TYPE = 200


class ResultRefused(Exception):
    """The job returned a value that cannot be stored as its result."""


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """The kind of the closing event and its data."""

    kind: EventKind
    data: dict[str, Any]


def from_return(
    value: Any, save_file: Callable[[bytes], Mapping[str, Any]], limit_passed: float | None = None
) -> AttemptOutcome:
    """Return the outcome of a job that returned `value`; raises `ResultRefused` if that is not JSON or too large.

    A result too large for the database is passed to `save_file`, which returns its location; errors of `save_file` are
    raised. `limit_passed`: the soft time limit (s) that passed before the job succeeded.
    """
    if limit_passed is not None:
        reason = f"succeeded after its soft time limit of {limit_passed:g} s had passed"
        return AttemptOutcome(EventKind.SUCCEEDED, {**from_return(value, save_file).data, "reason": reason})
    if value is None:
        return AttemptOutcome(EventKind.SUCCEEDED, {"result": None})
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultRefused(f"the job returned a {type(value).__name__} that is not JSON: {error}") from None
    try:
        json_values.check(value)
    except json_values.UnacceptableValue as error:
        raise ResultRefused(f"the job returned {error}") from None
    if len(text) <= MAX_RESULT:
        return AttemptOutcome(EventKind.SUCCEEDED, {"result": value})
    if len(text) > MAX_RESULT_FILE:
        raise ResultRefused(
            f"the job returned {len(text):,} bytes of JSON, more than the {MAX_RESULT_FILE:,} that are kept; "
            "save them with context.files.save() and return the path"
        )
    return AttemptOutcome(EventKind.SUCCEEDED, {"result": None, "result_file": dict(save_file(text))})


def verify_result(reported: AttemptOutcome) -> AttemptOutcome:
    """Return the outcome reported by a job's own process, or a failure if the result is not acceptable.

    That process runs users' code, so its report is checked.
    """
    try:
        json_values.check(reported.data.get("result"))
    except json_values.UnacceptableValue as error:
        return AttemptOutcome(
            EventKind.FAILED, {"error": describe_error(ResultRefused(f"the job's process reported {error}"))}
        )
    return reported


class ReportedOutcome(BaseException):
    """The outcome of an attempt that ran elsewhere. Not an `Exception`, so that no retry decision applies to it."""

    def __init__(self, outcome: AttemptOutcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def from_exception(error: BaseException) -> AttemptOutcome:
    """Return the outcome of a job that raised `error`."""
    if isinstance(error, ReportedOutcome):
        return error.outcome
    if isinstance(error, Retry):
        return _for_snooze(error) if isinstance(error, Snooze) else _for_retry(error)
    if isinstance(error, Ignore):
        return AttemptOutcome(EventKind.SUCCEEDED, {"result": None, "reason": "the job raised Ignore"})
    if isinstance(error, JobCancelled):
        return AttemptOutcome(
            EventKind.CANCELLED, {"reason": _format_message(error)[:_MAX_REASON] or "the job stopped by itself"}
        )
    kind = EventKind.TIMED_OUT if isinstance(error, SoftTimeLimitExceeded) else EventKind.FAILED
    reason = _explain_end(error)
    return AttemptOutcome(kind, {"error": describe_error(error), **({"reason": reason} if reason else {})})


def _explain_end(error: BaseException) -> str | None:
    """Return why the execution ended, where the error alone does not state it."""
    if isinstance(error, Abort):
        return error.reason[:_MAX_REASON]
    if isinstance(error, Reject):
        return "the job raised Reject"
    if isinstance(error, SoftTimeLimitExceeded):
        return "soft time limit exceeded"
    return f"the job called sys.exit({error.code!r})" if isinstance(error, SystemExit) else None


def _for_retry(error: Retry) -> AttemptOutcome:
    cause = error.__cause__ or error.exc
    failure = describe_error(cause) if cause else None
    why = f"{failure['type']}: {failure['message']}" if failure else "the job asked for a retry"
    reason = error.reason if isinstance(error, declare.Retry) and error.reason else why
    data = {"delay": error.when or 0, "reason": reason[:_MAX_REASON], "error": failure}
    return AttemptOutcome(
        EventKind.RETRYING, data | ({"timed_out": True} if isinstance(cause, SoftTimeLimitExceeded) else {})
    )


def _for_snooze(error: Snooze) -> AttemptOutcome:
    reason = error.reason or "the job snoozed itself"
    return AttemptOutcome(EventKind.RETRYING, {"delay": error.delay, "reason": reason[:_MAX_REASON], "snoozed": True})


def from_missing_report(error: BaseException | None) -> AttemptOutcome:
    """Return the outcome of an attempt without a report: its process is gone, or it ended before the job started."""
    if error is None:
        return AttemptOutcome(EventKind.FAILED, {"reason": "the job ended without a report"})
    if isinstance(error, TimeLimitExceeded):
        return for_hard_limit(error.args[0] if error.args else 0)
    if isinstance(error, WorkerLostError):
        return for_lost_process(str(error))
    return from_exception(error)


def for_hard_limit(seconds: float, retry_delay: float | None = None) -> AttemptOutcome:
    """Return the outcome of an attempt whose process was killed because the hard time limit had passed.

    `retry_delay` (s): another attempt follows after this delay.
    """
    error = {"type": "TimeLimitExceeded", "message": f"the hard time limit of {seconds:g} s passed", "traceback": None}
    data = {"error": error, "reason": "hard time limit exceeded"}
    if retry_delay is None:
        return AttemptOutcome(EventKind.TIMED_OUT, data)
    return AttemptOutcome(EventKind.RETRYING, {**data, "delay": retry_delay, "timed_out": True})


def for_unsupported_limits(pool: str, hard: float | None, soft: float | None) -> AttemptOutcome:
    """Return the outcome of a job that was not started because this worker cannot enforce its time limits."""
    limits = [f"{name} {limit:g} s" for name, limit in (("time_limit", hard), ("soft_time_limit", soft)) if limit]
    why = f"a worker with the pool {pool} cannot enforce its limits ({', '.join(limits)})"
    error = {
        "type": "TimeLimitNotKept",
        "message": f"{why}; start a worker with --pool prefork for its queue, send it to another queue, "
        'give the job isolation with the mode "process", or take the limits away',
        "traceback": None,
    }
    return AttemptOutcome(EventKind.REJECTED, {"error": error, "reason": why})


def for_forced_stop(by_signal: str) -> AttemptOutcome:
    """Return the outcome of a cancelled attempt that did not stop by itself."""
    return AttemptOutcome(EventKind.CANCELLED, {"reason": f"it did not stop by itself and was ended by {by_signal}"})


def for_lost_process(why: str) -> AttemptOutcome:
    """Return the outcome of an attempt whose process is gone."""
    return AttemptOutcome(EventKind.LOST, {"reason": f"the process that ran it ended: {why}"})


def for_interruption() -> AttemptOutcome:
    """Return the outcome of an attempt that a worker's shutdown interrupted."""
    return AttemptOutcome(EventKind.INTERRUPTED, {"reason": "its worker was shut down while it ran"})


def for_revocation(why: str) -> AttemptOutcome:
    """Return the outcome of an attempt that Celery's own `revoke` ended."""
    return AttemptOutcome(EventKind.CANCELLED, {"reason": f"{why} through Celery's remote control"})


def for_expiry(after: dt.datetime) -> AttemptOutcome:
    """Return the outcome of a message whose start deadline has passed."""
    return AttemptOutcome(EventKind.EXPIRED, {"reason": start_deadline.describe_missed_deadline(after)})


def describe_error(error: BaseException) -> dict[str, str | None]:
    """Return the type, message and traceback of an exception, cut to their maximum lengths."""
    frames = "".join(traceback.format_exception(error)) if error.__traceback__ else None
    return {
        "type": type(error).__name__[:_MAX_TYPE],
        "message": _format_message(error)[:_MAX_MESSAGE],
        "traceback": frames[-_MAX_TRACEBACK:] if frames else None,
    }


def _format_message(error: BaseException) -> str:
    if isinstance(error, SoftTimeLimitExceeded) and error.args:
        return str(error.args[0])  # Celery's text repeats the class.
    try:
        return str(error)
    except Exception:  # noqa: BLE001  __str__ of an exception may fail, and the outcome is still needed
        return f"<{type(error).__name__} that cannot be printed>"
