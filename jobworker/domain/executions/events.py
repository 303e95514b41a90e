"""Events: reports of workers and beat, and their format in Redis streams.

A stream entry has the fields `kind`, `execution`, `attempt` and `data` (JSON). The entry's id carries the Redis
server's time in milliseconds, so reports of all hosts are ordered by one clock.

kind            from     data
called          worker   by, at, task, queue, priority, correlation_id, args, kwargs, embedded (a direct call)
running         worker   worker, token, code_version
succeeded       worker   token, runtime (seconds), result; or result_file {name, size, sha256, host}
failed          worker   token, runtime, error {type, message, traceback}, reason?
timed_out       worker   token, runtime, error, reason
retrying        worker   token, runtime, error, delay (seconds after this report), reason, snoozed?: the retry is not
                         counted, timed_out?: a time limit ended the attempt
cancelled       worker   token, reason: revoked through Celery's own remote control
lost            worker   token, reason: the process that ran this attempt is gone
interrupted     worker   token, reason: the worker was shut down while it ran this attempt
expired         worker   reason: the deadline for its start had passed              (the attempt never ran)
rejected        worker   reason, error?: its message cannot be read                 (the attempt never ran)
unknown_task    worker   reason: this worker does not have the task; the message has to be published again
poisoned        relay    reason: a message that JobWorker did not send was started by several workers that died
worker_lost     relay    worker: its heartbeat stopped and it is fenced from now on
due             beat     schedule, at: the nominal time (RFC 3339)
progress        worker   done, total, message
metadata        worker   changed names and their values, null for deleted ones
log             worker   level, logger, message, at (RFC 3339)             (log stream)
log_cut         worker   dropped [lines, bytes] beyond the stored size     (log stream)

A report that ends an attempt may also have `progress` and `metadata`, with the changes that no `progress` or `metadata`
report has contained.

`expired` and `rejected` may be about a message that JobWorker did not send, and `poisoned` always is. Then `execution`
is empty, and the data have message (its id), task and queue besides the reason.
"""

import datetime as dt
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from jobworker.domain.executions.execution import ExecutionState, StateTransition
from jobworker.domain.jobs.definition import MAX_CODE_VERSION_LENGTH
from jobworker.domain.json import json_values


class EventKind(StrEnum):
    """Kind of a report."""

    CALLED = "called"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    RETRYING = "retrying"
    CANCELLED = "cancelled"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"
    REJECTED = "rejected"
    POISONED = "poisoned"
    UNKNOWN_TASK = "unknown_task"
    WORKER_LOST = "worker_lost"
    DUE = "due"
    PROGRESS = "progress"
    METADATA = "metadata"
    LOG = "log"
    LOG_CUT = "log_cut"


#: The kinds of reports that change the state of an execution, and the new state.
STATE_BY_KIND: Mapping[EventKind, ExecutionState] = {
    EventKind.RUNNING: ExecutionState.RUNNING,
    EventKind.SUCCEEDED: ExecutionState.SUCCEEDED,
    EventKind.FAILED: ExecutionState.FAILED,
    EventKind.TIMED_OUT: ExecutionState.TIMED_OUT,
    EventKind.RETRYING: ExecutionState.RETRYING,
    EventKind.CANCELLED: ExecutionState.CANCELLED,
    EventKind.EXPIRED: ExecutionState.SKIPPED,
    EventKind.REJECTED: ExecutionState.FAILED,
}

#: The kinds of reports about an attempt that never runs.
NEVER_RAN_KINDS = frozenset({EventKind.EXPIRED, EventKind.REJECTED})

#: The kinds of reports about an attempt that its worker did not finish; the relay decides how the execution continues.
INTERRUPTED_ATTEMPT_KINDS = frozenset({EventKind.LOST, EventKind.INTERRUPTED})

#: The kinds of reports about the end of an attempt.
ATTEMPT_END_KINDS = (frozenset(STATE_BY_KIND) - {EventKind.RUNNING}) | INTERRUPTED_ATTEMPT_KINDS

#: Maximum length of a worker, token or explanation that is copied from a refused report (characters).
_MAX_COPIED_LENGTH = 200

#: The error types displayed to users if the report contains no error.
_ERROR_TYPES: Mapping[EventKind, str] = {EventKind.REJECTED: "MessageRejected"}


class UnreadableEvent(ValueError):
    """Error for a stream entry that no version of JobWorker wrote."""


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of a stream."""

    id: str
    kind: EventKind
    execution: str
    attempt: int
    data: Mapping[str, Any]

    @property
    def stream_position(self) -> tuple[int, int]:
        """The stream entry's id as numbers, for comparison."""
        return parse_stream_id(self.id)

    @property
    def at(self) -> dt.datetime:
        """The time at which Redis received the report (its clock, UTC)."""
        return parse_stream_time(self.id)


def parse_stream_id(stream_id: str) -> tuple[int, int]:
    """Parse a stream id: `"1700000000000-3"` → `(1700000000000, 3)`."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def is_stream_id(value: object) -> bool:
    """Return whether a value is the id of a stream entry."""
    return isinstance(value, str) and _STREAM_ID.fullmatch(value) is not None


_STREAM_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


def format_stream_id(position: tuple[int, int]) -> str:
    """Format a stream id; the inverse of `parse_stream_id`."""
    return f"{position[0]}-{position[1]}"


def parse_stream_time(stream_id: str) -> dt.datetime:
    """Return the time in a stream id."""
    return dt.datetime.fromtimestamp(parse_stream_id(stream_id)[0] / 1000, dt.UTC)


def encode(kind: EventKind, execution: str, attempt: int, data: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a stream entry."""
    return {
        "kind": kind.value,
        "execution": execution,
        "attempt": str(attempt),
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")),
    }


def decode(stream_id: str, fields: Mapping[str, str]) -> Event:
    """Return the event in a stream entry, with data of the types that its readers expect.

    Raises `UnreadableEvent` for an entry that no version of JobWorker wrote. The end of an attempt must not be missed:
    if only its data cannot be read, the result is that of `build_refused_event`.
    """
    try:
        kind, execution, attempt = EventKind(fields["kind"]), fields.get("execution", ""), int(fields.get("attempt", 0))
        _check_subject(stream_id, execution, attempt)
    except (KeyError, ValueError, OverflowError, OSError) as error:
        raise UnreadableEvent(f"stream entry {stream_id} cannot be read: {error!r:.300}") from error
    try:
        return Event(stream_id, kind, execution, attempt, _parse_data(kind, fields.get("data", "{}")))
    except ValueError as error:
        if kind in ATTEMPT_END_KINDS and execution:
            return build_refused_event(Event(stream_id, kind, execution, attempt, {}), str(error))
        raise UnreadableEvent(f"stream entry {stream_id} ({kind}) cannot be read: {error!r:.300}") from error


def build_refused_event(event: Event, reason: str) -> Event:
    """Return the replacement for a report of an attempt's end that cannot be recorded: the attempt has failed."""
    reason = json_values.sanitize_text(f"its report that it was {event.kind} cannot be recorded: {reason}")[
        :_MAX_COPIED_LENGTH
    ]
    data: dict[str, Any] = {
        name: event.data[name]
        for name in ("worker", "token")
        if isinstance(event.data.get(name), str) and len(event.data[name]) <= _MAX_COPIED_LENGTH
    }
    data.update(reason=reason, error={"type": "ReportRefused", "message": reason, "traceback": None})
    return replace(event, kind=EventKind.REJECTED if event.kind in NEVER_RAN_KINDS else EventKind.FAILED, data=data)


#: Maximum attempt number that SQL can store.
_MAX_ATTEMPTS = 2**31 - 1

#: Maximum wait before another attempt (s): a due time beyond it cannot be represented.
_MAX_DELAY_SECONDS = 100 * 366 * 86400.0


def _check_subject(stream_id: str, execution: str, attempt: int) -> None:
    """Raise `ValueError`, or another error for an impossible time, if the id, execution or attempt is invalid."""
    if not _EXECUTION_ID.match(execution) or not 0 <= attempt <= _MAX_ATTEMPTS:
        raise ValueError("invalid execution id or attempt number")
    parse_stream_time(stream_id)


def _parse_data(kind: EventKind, text: str) -> Mapping[str, Any]:
    """Return the data of a report. Raises `ValueError` if a value has another type than its readers expect."""
    data = json_values.parse_sanitized(text)
    if not isinstance(data, dict):
        raise ValueError("data is not an object")
    # The names in a metadata report are defined by the job.
    for name, value in () if kind is EventKind.METADATA else data.items():
        is_right = _TYPE_CHECKS.get(name)
        if is_right and value is not None and not is_right(value):
            raise ValueError(f"{name} is of another type or too long")
    for name in _REQUIRED_DATA.get(kind, ()):
        if data.get(name) is None:
            raise ValueError(f"{name} is missing")
    return data


def _is_text_within(max_length: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and len(value) <= max_length and "\0" not in value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_error(value: Any) -> bool:
    return isinstance(value, dict) and all(
        value.get(name) is None or isinstance(value[name], str) for name in ("type", "message", "traceback")
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_time(value: Any) -> bool:
    try:
        return dt.datetime.fromisoformat(value).astimezone(dt.UTC) is not None
    except (TypeError, ValueError, OverflowError):
        return False


def _are_two_integers(value: Any) -> bool:
    return isinstance(value, list) and [type(item) for item in value] == [int, int]


#: The id of an execution, or an empty text.
_EXECUTION_ID = re.compile(r"[0-9A-Za-z-]{0,36}\Z")

#: Widths of the SQL columns (characters).
_MAX_WORKER_LENGTH, _MAX_TOKEN_LENGTH = 255, 64

#: Checks of the data that readers of reports rely on, applied if present; other data depend on the kind.
_TYPE_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "worker": _is_text_within(_MAX_WORKER_LENGTH),
    "token": _is_text_within(_MAX_TOKEN_LENGTH),
    "code_version": _is_string,
    "reason": _is_string,
    "runtime": lambda value: _is_number(value) and abs(value) < _MAX_DELAY_SECONDS,
    "delay": lambda value: _is_number(value) and 0 <= value <= _MAX_DELAY_SECONDS,
    "error": _is_error,
    "result_file": _is_object,
    "progress": _is_object,
    "metadata": _is_object,
    "schedule": _is_text_within(_MAX_TOKEN_LENGTH),
    "at": _is_time,
    "level": _is_string,
    "logger": _is_string,
    "dropped": _are_two_integers,
}

#: The required data of reports.
_REQUIRED_DATA: Mapping[EventKind, tuple[str, ...]] = {
    EventKind.WORKER_LOST: ("worker",),
    EventKind.DUE: ("schedule", "at"),
    EventKind.LOG: ("level", "logger", "message", "at"),
    EventKind.LOG_CUT: ("dropped",),
}


def to_transition(event: Event) -> StateTransition:
    """Return the state transition that a state report describes.

    A report about an attempt that never ran applies to the attempt before: the reported number stays unused.
    """
    data = event.data
    delay = data.get("delay")
    ran = event.kind not in NEVER_RAN_KINDS
    return StateTransition(
        execution=event.execution,
        attempt=event.attempt if ran else event.attempt - 1,
        state=STATE_BY_KIND[event.kind],
        event_id=event.stream_position,
        at=event.at,
        actor=format_actor(event),
        reason=data.get("reason"),
        worker=data.get("worker"),
        token=data.get("token"),
        code_version=(data.get("code_version") or "")[:MAX_CODE_VERSION_LENGTH] or None,
        due_at=event.at + dt.timedelta(seconds=delay) if delay is not None else None,
        result=data.get("result"),
        result_file=data.get("result_file"),
        error=data.get("error") or _build_default_error(event),
        timed_out=bool(data.get("timed_out")),
        runtime=data.get("runtime"),
        ran=ran,
        snoozed=bool(data.get("snoozed")),
    )


def format_actor(event: Event) -> str:
    """Return the sender of a report as the history names it."""
    worker = event.data.get("worker")
    return f"worker:{worker}" if worker else "worker"


def _build_default_error(event: Event) -> dict[str, Any] | None:
    kind = _ERROR_TYPES.get(event.kind)
    return {"type": kind, "message": event.data.get("reason"), "traceback": None} if kind else None
