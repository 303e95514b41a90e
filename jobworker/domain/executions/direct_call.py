"""Direct calls: tasks that Python code calls with `.delay()` or a similar method, parsed from a worker's report."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobworker.domain import ids
from jobworker.domain.executions.execution import PRIORITIES
from jobworker.domain.jobs.parameters import VARIADIC, Parameter
from jobworker.domain.json import json_values

#: The name among parameters for positional arguments without names.
POSITIONAL_ARGUMENTS = "*"

#: Maximum lengths of names in the history (characters). Celery is less strict about names than submissions are.
MAX_TASK_NAME_LENGTH, MAX_QUEUE_NAME_LENGTH = 255, 64

_MAX_TEXT_LENGTH = 128


@dataclass(frozen=True, slots=True)
class DirectCall:
    """A direct call: task, caller, time, arguments, and the signatures that Celery has chained to the task."""

    task: str
    queue: str
    priority: int
    caller: str
    called_at: dt.datetime
    correlation_id: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    embedded: Mapping[str, Any]


def parse(execution: str, data: Mapping[str, Any], recorded_at: dt.datetime) -> DirectCall:
    """Parse a worker's report of a direct call, received at `recorded_at`.

    Raises `KeyError`, `TypeError` or `ValueError` for invalid data.
    """
    task, queue, priority = data["task"], data["queue"], data["priority"]
    if not ids.is_id(execution) or not 0 < len(task) <= MAX_TASK_NAME_LENGTH:
        raise ValueError(f"not a direct call: execution {execution!r}, task {task!r}")
    if not 0 < len(queue) <= MAX_QUEUE_NAME_LENGTH or priority not in PRIORITIES:
        raise ValueError(f"not a direct call: queue {queue!r}, priority {priority!r}")
    args, kwargs, embedded = data["args"], data["kwargs"], data["embedded"]
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embedded, dict)):
        raise TypeError("args must be a list, kwargs and embedded objects")
    json_values.check([args, kwargs, embedded], allow_tagged=True)
    return DirectCall(
        task=task,
        queue=queue,
        priority=priority,
        caller=str(data["by"])[:_MAX_TEXT_LENGTH],
        called_at=min(dt.datetime.fromisoformat(data["at"]).astimezone(dt.UTC), recorded_at),
        correlation_id=str(data.get("correlation_id") or "")[:_MAX_TEXT_LENGTH],
        args=args,
        kwargs=kwargs,
        embedded=embedded,
    )


def bind_parameters(call: DirectCall, accepted: Sequence[Parameter]) -> tuple[dict[str, Any], bool]:
    """Return the parameters of the call, by name as far as names are known; and whether all of them have names."""
    names = [parameter.name for parameter in accepted if parameter.name != VARIADIC.name]
    if len(call.args) > len(names) or any(name in call.kwargs for name in names[: len(call.args)]):
        return {POSITIONAL_ARGUMENTS: list(call.args), **call.kwargs}, False
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}, True
