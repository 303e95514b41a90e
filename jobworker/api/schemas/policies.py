"""The policies of a definition. Their parsers in the domain say what is wrong; here is what they look like."""

from collections.abc import Mapping
from typing import Any

from marshmallow import fields

#: For people who read the description of the API, by the name of the policy.
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "retry": {
        "description": "How often a failing execution is tried, and when: max_attempts (null: as the task's own "
        "max_retries says), strategy (none, fixed, linear, exponential, exponential_jitter) with delay, max_delay and "
        "jitter (up, down, both), or a list of delays; retry_on and not_on name exceptions.",
        "example": {"max_attempts": 5, "strategy": "exponential_jitter", "delay": 30, "max_delay": 3600},
    },
    "isolation": {
        "description": "Where it runs: mode in_process; process with memory (bytes), cpu (seconds) and open_files; or "
        "container with image, command, memory, cpus, processes and network (none, or a name).",
        "example": {"mode": "process", "memory": 536870912, "cpu": 60},
    },
}


def policy(name: str, required: bool = False) -> fields.Raw:
    """A policy as somebody writes it."""
    if required:
        return fields.Raw(required=True, metadata=dict(POLICIES[name]))
    return fields.Raw(load_default=None, allow_none=True, metadata=dict(POLICIES[name]))
