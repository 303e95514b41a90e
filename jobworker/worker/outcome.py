"""What came of an attempt, in the words of the event stream."""

import datetime as dt
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from jobworker import declare
from jobworker.declare import Abort, JobCancelled, Snooze
from jobworker.domain import deadline, json_values
from jobworker.domain.events import Kind

#: Longest result that is kept with the execution, and longest that is kept in a file (bytes of JSON).
MAX_RESULT = 64 * 1024
MAX_RESULT_FILE = 100 * 1024 * 1024

#: Longest error message and traceback that are kept (characters).
_MAX_MESSAGE = 4_000
_MAX_TRACEBACK = 20_000
_MAX_REASON = 200

#: Longest name of an exception's class that is kept (characters).
_MAX_TYPE = 200


class ResultRefused(Exception):
    """The job returned something that cannot be kept as its result."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The kind of the closing event and its data."""

    kind: Kind
    data: dict[str, Any]


def of_return(value: Any, keep: Callable[[bytes], Mapping[str, Any]], limit_passed: float | None = None) -> Outcome:
    """The job returned `value`; raises `ResultRefused` if that is no JSON or too long.

    What is too long for the database goes to `keep`, which answers where it is; raises what `keep` raises.
    `limit_passed`: the soft time limit (s) that it went on after.
    """
    if limit_passed is not None:
        reason = f"succeeded after its soft time limit of {limit_passed:g} s had passed"
        return Outcome(Kind.SUCCEEDED, {**of_return(value, keep).data, "reason": reason})
    if value is None:
        return Outcome(Kind.SUCCEEDED, {"result": None})
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultRefused(f"the job returned a {type(value).__name__} that is not JSON: {error}") from None
    try:
        json_values.check(value)
    except json_values.Unacceptable as error:
        raise ResultRefused(f"the job returned {error}") from None
    if len(text) <= MAX_RESULT:
        return Outcome(Kind.SUCCEEDED, {"result": value})
    if len(text) > MAX_RESULT_FILE:
        raise ResultRefused(
            f"the job returned {len(text):,} bytes of JSON, more than the {MAX_RESULT_FILE:,} that are kept; "
            "save them with context.files.save() and return the path"
        )
    return Outcome(Kind.SUCCEEDED, {"result": None, "result_file": dict(keep(text))})


def checked(ended: Outcome) -> Outcome:
    """What a job's own process says of its end; a failure if its result is not acceptable. Users' code runs there."""
    try:
        json_values.check(ended.data.get("result"))
    except json_values.Unacceptable as error:
        return Outcome(Kind.FAILED, {"error": describe(ResultRefused(f"the job's process reported {error}"))})
    return ended


class Told(BaseException):
    """The attempt ended elsewhere, and this was said of it. Not an `Exception`: nothing here decides about it again."""

    def __init__(self, ended: Outcome) -> None:
        super().__init__(ended)
        self.outcome = ended


def of_exception(error: BaseException) -> Outcome:
    """The job raised `error`."""
    if isinstance(error, Told):
        return error.outcome
    if isinstance(error, Retry):
        return _snoozed(error) if isinstance(error, Snooze) else _retrying(error)
    if isinstance(error, Ignore):
        return Outcome(Kind.SUCCEEDED, {"result": None, "reason": "the job raised Ignore"})
    if isinstance(error, JobCancelled):
        return Outcome(Kind.CANCELLED, {"reason": _printable(error)[:_MAX_REASON] or "the job stopped by itself"})
    kind = Kind.TIMED_OUT if isinstance(error, SoftTimeLimitExceeded) else Kind.FAILED
    reason = _reason(error)
    return Outcome(kind, {"error": describe(error), **({"reason": reason} if reason else {})})


def _reason(error: BaseException) -> str | None:
    """Why the execution ended, where its error alone does not say."""
    if isinstance(error, Abort):
        return error.reason[:_MAX_REASON]
    if isinstance(error, Reject):
        return "the job raised Reject"
    if isinstance(error, SoftTimeLimitExceeded):
        return "soft time limit exceeded"
    return f"the job called sys.exit({error.code!r})" if isinstance(error, SystemExit) else None


def _retrying(error: Retry) -> Outcome:
    cause = error.__cause__ or error.exc
    failure = describe(cause) if cause else None
    why = f"{failure['type']}: {failure['message']}" if failure else "the job asked for a retry"
    reason = error.reason if isinstance(error, declare.Retry) and error.reason else why
    told = {"delay": error.when or 0, "reason": reason[:_MAX_REASON], "error": failure}
    return Outcome(Kind.RETRYING, told | ({"timed_out": True} if isinstance(cause, SoftTimeLimitExceeded) else {}))


def _snoozed(error: Snooze) -> Outcome:
    reason = error.reason or "the job put itself off"
    return Outcome(Kind.RETRYING, {"delay": error.delay, "reason": reason[:_MAX_REASON], "snoozed": True})


def of_end_without_report(error: BaseException | None) -> Outcome:
    """The attempt ended and the job could not say how: its process is gone, or it never got as far as the job."""
    if error is None:
        return Outcome(Kind.FAILED, {"reason": "the job ended without a report"})
    if isinstance(error, TimeLimitExceeded):
        return hard_limit(error.args[0] if error.args else 0)
    if isinstance(error, WorkerLostError):
        return process_gone(str(error))
    return of_exception(error)


def hard_limit(seconds: float, wait: float | None = None) -> Outcome:
    """The parent killed the process because the hard time limit had passed. `wait` (s): another attempt follows."""
    error = {"type": "TimeLimitExceeded", "message": f"the hard time limit of {seconds:g} s passed", "traceback": None}
    told = {"error": error, "reason": "hard time limit exceeded"}
    if wait is None:
        return Outcome(Kind.TIMED_OUT, told)
    return Outcome(Kind.RETRYING, {**told, "delay": wait, "timed_out": True})


def limits_not_kept(pool: str, hard: float | None, soft: float | None) -> Outcome:
    """The job has time limits that this worker cannot keep, so it was not begun."""
    told = [f"{name} {limit:g} s" for name, limit in (("time_limit", hard), ("soft_time_limit", soft)) if limit]
    why = f"a worker with the pool {pool} cannot keep its limits ({', '.join(told)})"
    error = {
        "type": "TimeLimitNotKept",
        "message": f"{why}; start a worker with --pool prefork for its queue, send it to another queue, "
        'give the job isolation with the mode "process", or take the limits away',
        "traceback": None,
    }
    return Outcome(Kind.REJECTED, {"error": error, "reason": why})


def stopped(by_signal: str) -> Outcome:
    """Somebody had it cancelled, and it did not stop by itself."""
    return Outcome(Kind.CANCELLED, {"reason": f"it did not stop by itself and was ended by {by_signal}"})


def process_gone(why: str) -> Outcome:
    """The process that ran the job is gone."""
    return Outcome(Kind.LOST, {"reason": f"the process that ran it ended: {why}"})


def interrupted() -> Outcome:
    """The worker was shut down and could not wait."""
    return Outcome(Kind.INTERRUPTED, {"reason": "its worker was shut down while it ran"})


def revoked(why: str) -> Outcome:
    """Somebody used Celery's own `revoke`."""
    return Outcome(Kind.CANCELLED, {"reason": f"{why} through Celery's remote control"})


def expired(after: dt.datetime) -> Outcome:
    """The message says that it is too late to start."""
    return Outcome(Kind.EXPIRED, {"reason": deadline.missed(after)})


def describe(error: BaseException) -> dict[str, str | None]:
    """Type, message and traceback of an exception, cut to what is worth keeping."""
    frames = "".join(traceback.format_exception(error)) if error.__traceback__ else None
    return {
        "type": type(error).__name__[:_MAX_TYPE],
        "message": _printable(error)[:_MAX_MESSAGE],
        "traceback": frames[-_MAX_TRACEBACK:] if frames else None,
    }


def _printable(error: BaseException) -> str:
    if isinstance(error, SoftTimeLimitExceeded) and error.args:
        return str(error.args[0])  # Celery would show its class once more.
    try:
        return str(error)
    except Exception:  # noqa: BLE001  an exception's own __str__ may be broken, and the outcome must still be told
        return f"<{type(error).__name__} that cannot be printed>"
