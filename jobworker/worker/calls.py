"""Tasks that are called from Python, with `.delay()` and what is like it: how they come into the history.

The caller gives the message an execution id of its own; the worker that gets the message tells the relay what was
called before it tells anything else, and the relay makes the row. From then on it is an execution like any other.
"""

import socket
from collections.abc import Mapping
from typing import Any, TypeGuard

import structlog
from celery import Task, canvas
from kombu.utils import json

from jobworker.clock import Clock
from jobworker.declare import JobOptions
from jobworker.domain import json_values, losses, policies
from jobworker.domain.calls import LONGEST_QUEUE, LONGEST_TASK
from jobworker.domain.ids import IdFactory, is_time_ordered
from jobworker.domain.parameters import MAX_BYTES
from jobworker.worker.delivery import HEADER

logger = structlog.get_logger(__name__)

_ids = IdFactory()

#: Celery's own tasks, which nobody wants to see as jobs.
_CELERYS = "celery."

#: Those that run calls of others.
_MANY = frozenset({"celery.map", "celery.starmap", "celery.chunks"})

#: What Celery chains to a task; it belongs to every attempt of it.
_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")

_NO_OPTIONS = JobOptions()


def name_by_executions(clock: Clock) -> None:
    """Let Celery give what chains and groups consist of ids that executions can have."""
    canvas.uuid = lambda: _ids.create_id(int(clock.now().timestamp() * 1000))


def options_of(
    clock: Clock,
    name: str,
    args: Any,
    kwargs: Any,
    given: Mapping[str, Any],
    task: Task | None,
    caller: Task | None,
    routed: bool,
) -> dict[str, Any]:
    """What a call of task `name` gets besides the options `given` to Celery's `send_task`.

    `caller`: the task that makes the call, if one does; `routed`: somebody else decides about queues. Queue and
    priority are the job's unless the call says otherwise.
    """
    if name in _MANY:
        raise ValueError(
            f"{name} runs many calls in one task, of which the history has nothing; call them with a group"
        )
    if not given.get("queue") and (given.get("exchange") or given.get("routing_key")):
        raise ValueError(f"task {name} cannot be called like this: name a queue, not an exchange or a routing_key")
    headers = given.get("headers") or {}
    if name.startswith(_CELERYS) or HEADER in headers:
        return {}
    added: dict[str, Any] = {}
    options = getattr(task, "job_options", _NO_OPTIONS)
    if given.get("priority") is None:
        added["priority"] = 9 - options.priority
    if not routed and not any(given.get(option) for option in ("queue", "exchange", "routing_key")):
        added["queue"] = options.queue
    _check(name, args, kwargs, given)
    called = _header(clock, name, given, getattr(caller.request, HEADER, None) if caller else None)
    added["headers"] = {**headers, HEADER: called}
    added["task_id"] = called["execution"]
    # Flower and `inspect` show these, and workers log them; what the caller says itself is meant to be shown.
    added["argsrepr"] = given.get("argsrepr") or "(…)"
    added["kwargsrepr"] = given.get("kwargsrepr") or "{…}"
    return added


def _header(clock: Clock, name: str, given: Mapping[str, Any], caller: Mapping[str, Any] | None) -> dict[str, Any]:
    now, own = clock.now(), str(given.get("task_id") or "")
    execution = own if is_time_ordered(own) else _ids.create_id(int(now.timestamp() * 1000))
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


def _check(name: str, args: Any, kwargs: Any, given: Mapping[str, Any]) -> None:
    """Raise `ValueError` for arguments that the history cannot hold as they are: nobody would hear of the call."""
    more = {option: given.get(option) for option in ("chain", "link")}
    text = json.dumps({"args": args or (), "kwargs": kwargs or {}, **more})
    queue = given.get("queue") or ""
    if len(name) > LONGEST_TASK:
        why = f"its name has more than {LONGEST_TASK} characters"
    elif len(getattr(queue, "name", queue)) > LONGEST_QUEUE:
        why = f"the name of its queue has more than {LONGEST_QUEUE} characters"
    elif len(text) > MAX_BYTES:
        why = f"its {len(text)} bytes of arguments are more than {MAX_BYTES}; leave what is large in a file, say"
    else:
        why = _why_not_kept(text) or ""
    if why:
        raise ValueError(f"task {name} cannot be called like this: {why}")


def _why_not_kept(text: str) -> str | None:
    """What in the arguments of a call the history cannot hold; what kombu has written for Python's types it can."""
    try:
        json_values.parse(text, tagged=True)
    except ValueError as error:
        return f"its arguments hold {error}"
    return None


def completed(header: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The header of a call with what the relay would have said of the task."""
    own = task.job_options.policies
    return {
        **header,
        "policies": policies.for_worker(own),
        "max_attempts": (own.get("retry") or {}).get("max_attempts"),
        "announce": losses.announced(task.job_options.on_worker_lost, None),
    }


def is_call(header: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a message with this header is a call."""
    return isinstance(header, Mapping) and isinstance(header.get("called"), Mapping)


def told(headers: Mapping[str, Any], payload: Any, delivery_info: Mapping[str, Any], priority: Any) -> str | None:
    """The data of the `called` event, as JSON; None if the message is no call that can be kept.

    `payload` may be unknown: None.
    """
    header, task, queue = headers.get(HEADER), headers.get("task"), delivery_info.get("routing_key")
    if not is_call(header) or len(str(task)) > LONGEST_TASK or not 0 < len(str(queue or "")) <= LONGEST_QUEUE:
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
        "embedded": {name: value for name, value in embedded.items() if name in _EMBEDDED and value},
    }
    text: str = json.dumps(data)
    if why := _why_not_kept(text):
        logger.warning("call_not_in_history", task=task, why=why)
        return None
    return text
