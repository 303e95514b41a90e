"""Direct calls: the header of their messages, and the event that records them in the history.

The caller gives the message an execution id of its own. The worker that fetches the message reports the call before any
other event, and the relay inserts the row. From then on the call is an execution like any other.
"""

import socket
from collections.abc import Mapping
from typing import Any, TypeGuard

import structlog
from celery import Task, canvas
from kombu.utils import json

from jobworker.clock import Clock
from jobworker.declare import JobOptions
from jobworker.domain.executions import worker_loss
from jobworker.domain.executions.direct_call import MAX_QUEUE_NAME_LENGTH, MAX_TASK_NAME_LENGTH
from jobworker.domain.ids import IdFactory, is_time_ordered
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.parameters import MAX_PARAMETERS_BYTES
from jobworker.domain.json import json_values
from jobworker.worker.attempt.delivery import EXECUTION_HEADER

logger = structlog.get_logger(__name__)

_id_factory = IdFactory()

#: Prefix of Celery's own tasks, which are not shown as jobs.
_CELERY_PREFIX = "celery."

#: Celery's tasks that run several calls.
_MULTI_CALL_TASKS = frozenset({"celery.map", "celery.starmap", "celery.chunks"})

#: Options with tasks that Celery chains to a task; they belong to every attempt.
_EMBEDDED_OPTIONS = ("callbacks", "errbacks", "chain", "chord")

_DEFAULT_OPTIONS = JobOptions()


def use_execution_ids(clock: Clock) -> None:
    """Make Celery give the members of chains and groups ids in the format of executions."""
    canvas.uuid = lambda: _id_factory.create_id(int(clock.now().timestamp() * 1000))


def build_options(
    clock: Clock,
    name: str,
    args: Any,
    kwargs: Any,
    call_options: Mapping[str, Any],
    task: Task | None,
    caller: Task | None,
    routed: bool,
) -> dict[str, Any]:
    """Return the options that a call of task `name` gets besides the `call_options` to Celery's `send_task`.

    `caller`: the task that makes the call, if any; `routed`: `task_routes` determines queues. Queue and priority are
    the job's unless the call sets them.
    """
    if name in _MULTI_CALL_TASKS:
        raise ValueError(f"{name} runs many calls in one task, which the history cannot record; call them with a group")
    if not call_options.get("queue") and (call_options.get("exchange") or call_options.get("routing_key")):
        raise ValueError(f"task {name} cannot be called like this: name a queue, not an exchange or a routing_key")
    headers = call_options.get("headers") or {}
    if name.startswith(_CELERY_PREFIX) or EXECUTION_HEADER in headers:
        return {}
    added: dict[str, Any] = {}
    options = getattr(task, "job_options", _DEFAULT_OPTIONS)
    if call_options.get("priority") is None:
        added["priority"] = 9 - options.priority
    if not routed and not any(call_options.get(option) for option in ("queue", "exchange", "routing_key")):
        added["queue"] = options.queue
    _check_storable(name, args, kwargs, call_options)
    called = _build_header(
        clock, name, call_options, getattr(caller.request, EXECUTION_HEADER, None) if caller else None
    )
    added["headers"] = {**headers, EXECUTION_HEADER: called}
    added["task_id"] = called["execution"]
    # Flower and `inspect` show these, and workers log them; values that the caller sets are meant to be shown.
    added["argsrepr"] = call_options.get("argsrepr") or "(…)"
    added["kwargsrepr"] = call_options.get("kwargsrepr") or "{…}"
    return added


def _build_header(
    clock: Clock, name: str, call_options: Mapping[str, Any], caller: Mapping[str, Any] | None
) -> dict[str, Any]:
    now, own = clock.now(), str(call_options.get("task_id") or "")
    execution = own if is_time_ordered(own) else _id_factory.create_id(int(now.timestamp() * 1000))
    return {
        "execution": execution,
        "attempt": 1,
        "job": name,
        "correlation_id": caller["correlation_id"] if caller else own[:128] or execution,
        "called": {
            "by": f"execution:{caller['execution']}" if caller else f"python:{socket.gethostname()}",
            "at": now.isoformat(),
        },
    }


def _check_storable(name: str, args: Any, kwargs: Any, call_options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for arguments that the history cannot store: the call would remain unrecorded."""
    more = {option: call_options.get(option) for option in ("chain", "link")}
    text = json.dumps({"args": args or (), "kwargs": kwargs or {}, **more})
    queue = call_options.get("queue") or ""
    if len(name) > MAX_TASK_NAME_LENGTH:
        why = f"its name has more than {MAX_TASK_NAME_LENGTH} characters"
    elif len(getattr(queue, "name", queue)) > MAX_QUEUE_NAME_LENGTH:
        why = f"the name of its queue has more than {MAX_QUEUE_NAME_LENGTH} characters"
    elif len(text) > MAX_PARAMETERS_BYTES:
        why = f"its {len(text)} bytes of arguments are more than {MAX_PARAMETERS_BYTES}; put large values in a file"
    else:
        why = _explain_unstorable(text) or ""
    if why:
        raise ValueError(f"task {name} cannot be called like this: {why}")


def _explain_unstorable(text: str) -> str | None:
    """Return why the history cannot store the arguments of a call; it can store kombu's format of Python types."""
    try:
        json_values.parse(text, allow_tagged=True)
    except ValueError as error:
        return f"its arguments contain {error}"
    return None


def complete_header(header: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """Return the header of a direct call with the fields that the relay would have added for the task."""
    own = task.job_options.policies
    return {
        **header,
        "policies": policies.select_for_worker(own),
        "max_attempts": (own.get("retry") or {}).get("max_attempts"),
        "announce": worker_loss.is_announcement_required(task.job_options.on_worker_lost, None),
    }


def is_direct_call(header: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a message with this header is a direct call."""
    return isinstance(header, Mapping) and isinstance(header.get("called"), Mapping)


def encode_called_event(
    headers: Mapping[str, Any], payload: Any, delivery_info: Mapping[str, Any], priority: Any
) -> str | None:
    """Return the data of the `called` event as JSON; None if the message is not a direct call that can be recorded.

    Pass None as `payload` if it is unknown.
    """
    header, task, queue = headers.get(EXECUTION_HEADER), headers.get("task"), delivery_info.get("routing_key")
    if (
        not is_direct_call(header)
        or len(str(task)) > MAX_TASK_NAME_LENGTH
        or not 0 < len(str(queue or "")) <= MAX_QUEUE_NAME_LENGTH
    ):
        return None
    args, kwargs, embedded = payload or ([], {}, {})
    data = {
        **header["called"],
        "task": task,
        "queue": queue,
        "priority": min(9, max(0, 9 - priority)) if isinstance(priority, int) else 9,
        "correlation_id": header.get("correlation_id"),
        "args": args,
        "kwargs": kwargs,
        "embedded": {name: value for name, value in embedded.items() if name in _EMBEDDED_OPTIONS and value},
    }
    text: str = json.dumps(data)
    if why := _explain_unstorable(text):
        logger.warning("call_not_in_history", task=task, why=why)
        return None
    return text
