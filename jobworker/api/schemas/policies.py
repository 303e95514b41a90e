"""Schemas of the policies of a job definition. They describe the fields; parsers in the domain validate the values."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage

#: Descriptions and examples for the OpenAPI document, by name of the policy.
POLICY_METADATA: Mapping[str, Mapping[str, Any]] = {
    "retry": {
        "description": "Number and times of the attempts of a failing execution: max_attempts (null: set by the task's "
        "max_retries), strategy (none, fixed, linear, exponential, exponential_jitter) with delay, max_delay and "
        "jitter (up, down, both), or a list of delays; retry_on and not_on name exceptions.",
        "example": {"max_attempts": 5, "strategy": "exponential_jitter", "delay": 30, "max_delay": 3600},
    },
    "trigger_after": {
        "description": "Jobs whose executions trigger this job when they end: job, on (success, failure, any) and "
        'parameters, which may refer to the result of that execution: {"$from": job, "path": "/file"}.',
        "example": [{"job": "extract", "on": "success", "parameters": {"file": {"$from": "extract", "path": "/file"}}}],
    },
    "isolation": {
        "description": "Isolation of attempts: mode in_process; process with memory (bytes), cpu (seconds) and "
        "open_files; or container with image, command, memory, cpus, processes and network (none, or a name).",
        "example": {"mode": "process", "memory": 536870912, "cpu": 60},
    },
    "circuit": {
        "description": "Circuit breaker of the task http.request: after a number of consecutive failures of a host and "
        "port (failures), executions of the job send no requests to it for a number of seconds (pause).",
        "example": {"failures": 5, "pause": 60},
    },
    "concurrency": {
        "description": "Maximum number of executions that run at a time on all hosts: limit for each key, total for "
        "all keys (shared evenly). A key names parameters in braces; without a key, limit applies to the job.",
        "example": {"limit": 2, "key": "tenant:{tenant_id}", "total": 10},
    },
    "rate_limit": {
        "description": "Maximum number of executions (limit) that start in a number of seconds (per) for each key. "
        "Starts are evenly spaced, except that up to burst executions may start at once.",
        "example": {"limit": 100, "per": 60, "burst": 10, "key": "tenant:{tenant_id}"},
    },
    "unique": {
        "description": "Unique executions: only one with a given key (without a key: with given parameters) until "
        "it has started or finished (until), or for a number of seconds (for). on_conflict: reject the second, return "
        "the first, or replace the first while it has not started.",
        "example": {"key": "report:{month}", "until": "finished", "on_conflict": "return"},
    },
}


class _PolicyField(fields.Raw):
    """Policy in a request; its parser in the domain validates the value."""

    def __init__(self, value_type: type[Any], **options: Any) -> None:
        super().__init__(**options)
        self._value_type = value_type

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, self._value_type):
            raise ma.ValidationError(CodedMessage("wrong_type", _TYPE_MESSAGES[self._value_type]))
        return value


_TYPE_MESSAGES: Mapping[type[Any], str] = {dict: "must be a JSON object", list: "must be an array"}
_OBJECT_LIST = {"type": "array", "items": {"type": "object"}}


def policy_field(name: str, required: bool = False) -> fields.Raw:
    """Return the field of a policy in a request."""
    is_list = name == "trigger_after"
    metadata = {**(_OBJECT_LIST if is_list else {"type": "object"}), **POLICY_METADATA[name]}
    kind: type[Any] = list if is_list else dict
    if required:
        return _PolicyField(kind, required=True, metadata=metadata)
    return _PolicyField(kind, load_default=None, allow_none=True, metadata=metadata)
