"""A job definition: which task, where it runs, what it may use. One revision of it is one immutable value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from jobworker.domain.executions.execution import DEFAULT_PRIORITY
from jobworker.domain.jobs import policies
from jobworker.domain.workflows import trigger
from jobworker.domain.workflows.trigger import Trigger

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}\Z")
QUEUE_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")
#: What the name of a queue must do, in words.
QUEUE_NAME_FORM = "begin with a-z or 0-9 and have at most 64 characters of a-z 0-9 . _ -"
DEFAULT_QUEUE = "default"

#: Characters of a code version that are kept. An image digest has 71: its end says no more than its beginning.
MAX_CODE_VERSION_LENGTH = 64

#: Queues that every worker serves unless it is told otherwise.
BUILTIN_QUEUES = ("critical", DEFAULT_QUEUE, "background")


class OnWorkerLost(StrEnum):
    """What becomes of an attempt whose worker died."""

    RETRY = "retry"
    FAIL = "fail"


class JobOwner(StrEnum):
    """Where a definition is edited."""

    CODE = "code"
    API = "api"


@dataclass(frozen=True, slots=True)
class JobDefinition:
    """What a job is.

    Limits are in seconds, and so is `expires`, the deadline for a start after it is due. `schedule` is a rule as
    JSON (see `domain.schedules.schedule.of_job`), `policies` holds the JSON of each of `domain.jobs.policies`, by its name.
    """

    name: str
    task: str
    description: str = ""
    enabled: bool = True
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    defaults: Mapping[str, Any] = field(default_factory=dict)
    time_limit: float | None = None
    soft_time_limit: float | None = None
    expires: float | None = None
    on_worker_lost: OnWorkerLost = OnWorkerLost.RETRY
    schedule: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()
    policies: Mapping[str, Any] = field(default_factory=lambda: dict(policies.DEFAULTS))

    @property
    def max_attempts(self) -> int | None:
        """How many attempts there may be; None: as the task's own `max_retries` says."""
        attempts: int | None = self.policies["retry"]["max_attempts"]
        return attempts

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """The jobs after which it starts; raises `InvalidInput` if its policy is wrong."""
        return trigger.parse(self.policies.get("trigger_after") or [], "/trigger_after").items

    def to_json(self) -> dict[str, Any]:
        """As stored and shown: each policy stands beside the other fields."""
        shown = {item.name: getattr(self, item.name) for item in fields(self)}
        shown["defaults"] = dict(self.defaults)
        shown["tags"] = list(self.tags)
        shown["on_worker_lost"] = self.on_worker_lost.value
        shown["schedule"] = dict(self.schedule) if self.schedule else None
        named = shown.pop("policies")
        return {**shown, **named}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "JobDefinition":
        """The inverse of `to_json`, for what has been validated before; raises `TypeError` if it is no definition."""
        values = {name: value for name, value in stored.items() if name not in policies.PARSERS}
        values["policies"] = {name: stored.get(name) or default for name, default in policies.DEFAULTS.items()}
        values["tags"] = tuple(values.get("tags", ()))
        values["on_worker_lost"] = OnWorkerLost(values.get("on_worker_lost", "retry"))
        for name, kinds in _FIELD_TYPES.items():
            if name in values and not isinstance(values[name], kinds):
                raise TypeError(f"{name} is {str(values[name])[:40]!r}")
        for name, kinds in _POLICY_TYPES.items():
            if not isinstance(values["policies"][name], kinds):
                raise TypeError(f"{name} is {str(values['policies'][name])[:40]!r}")
        return cls(**values)


#: What `from_json` makes sure of: whoever reads a definition relies on it.
_FIELD_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("name", "task", "description", "queue"), str),
    **dict.fromkeys(("time_limit", "soft_time_limit", "expires"), int | float | None),
    "enabled": bool,
    "priority": int,
    "defaults": dict,
    "schedule": dict | None,
}
_POLICY_TYPES: Mapping[str, Any] = {
    name: type(default) if default is not None else dict | None for name, default in policies.DEFAULTS.items()
}
