"""The policies of a definition. Their parsers in the domain say what is wrong; here is what they look like."""

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage

#: For people who read the description of the API, by the name of the policy.
POLICY_METADATA: Mapping[str, Mapping[str, Any]] = {
    "retry": {
        "description": "How often a failing execution is tried, and when: max_attempts (null: as the task's own "
        "max_retries says), strategy (none, fixed, linear, exponential, exponential_jitter) with delay, max_delay and "
        "jitter (up, down, both), or a list of delays; retry_on and not_on name exceptions.",
        "example": {"max_attempts": 5, "strategy": "exponential_jitter", "delay": 30, "max_delay": 3600},
    },
    "trigger_after": {
        "description": "The jobs after whose executions it starts: job, on (success, failure, any) and parameters, "
        'which may refer to the result of that execution: {"$from": job, "path": "/file"}.',
        "example": [{"job": "extract", "on": "success", "parameters": {"file": {"$from": "extract", "path": "/file"}}}],
    },
    "isolation": {
        "description": "Where it runs: mode in_process; process with memory (bytes), cpu (seconds) and open_files; or "
        "container with image, command, memory, cpus, processes and network (none, or a name).",
        "example": {"mode": "process", "memory": 536870912, "cpu": 60},
    },
    "circuit": {
        "description": "For the task http.request: after so many failures of a host and port in a row (failures) no "
        "execution of the job asks it for so many seconds (pause).",
        "example": {"failures": 5, "pause": 60},
    },
    "concurrency": {
        "description": "How many executions run at a time, on all hosts together: limit for each key, total for all "
        "keys (shared out evenly). A key names parameters in braces; without one, limit holds for the job.",
        "example": {"limit": 2, "key": "tenant:{tenant_id}", "total": 10},
    },
    "rate_limit": {
        "description": "How many executions start (limit) in how many seconds (per), evenly spaced but for burst of "
        "them at once, for each key.",
        "example": {"limit": 100, "per": 60, "burst": 10, "key": "tenant:{tenant_id}"},
    },
    "unique": {
        "description": "No two executions with the same key (without one: with the same parameters) until the first "
        "has started or finished (until), or for so many seconds (for). on_conflict: reject, return the first, or "
        "replace it while it has not started.",
        "example": {"key": "report:{month}", "until": "finished", "on_conflict": "return"},
    },
}


class _PolicyField(fields.Raw):
    """A policy as a request has it. What is in it, its parser in the domain checks."""

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
