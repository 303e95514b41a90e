"""Job definitions: a task with its queue, policies and default parameters. One revision is one immutable value."""

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
#: Rule for the name of a queue, as a part of error messages.
QUEUE_NAME_FORM = "begin with a-z or 0-9 and have at most 64 characters of a-z 0-9 . _ -"
DEFAULT_QUEUE = "default"

#: Maximum stored length of a code version (characters). An image digest has 71: its beginning identifies the image.
MAX_CODE_VERSION_LENGTH = 64

#: Queues that every worker serves by default.
BUILTIN_QUEUES = ("critical", DEFAULT_QUEUE, "background")


class OnWorkerLost(StrEnum):
    """Action for an attempt whose worker died."""

    RETRY = "retry"
    FAIL = "fail"


class JobOwner(StrEnum):
    """Place where a definition is edited."""

    CODE = "code"
    API = "api"


@dataclass(frozen=True, slots=True)
class JobDefinition:
    """A job definition.

    Limits are in seconds, and so is `expires`, the deadline for a start after it is due. `schedule` is a rule as JSON
    (see `domain.schedules.schedule.parse_job_schedule`), `policies` holds the JSON of each of `domain.jobs.policies`,
    by its name.
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
        """Maximum number of attempts; None if the task's own `max_retries` decides."""
        attempts: int | None = self.policies["retry"]["max_attempts"]
        return attempts

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """The triggers that start the job. Raises `InvalidInput` if its policy is invalid."""
        return trigger.parse(self.policies.get("trigger_after") or [], "/trigger_after").items

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API: each policy is a field beside the others."""
        shown = {item.name: getattr(self, item.name) for item in fields(self)}
        shown["defaults"] = dict(self.defaults)
        shown["tags"] = list(self.tags)
        shown["on_worker_lost"] = self.on_worker_lost.value
        shown["schedule"] = dict(self.schedule) if self.schedule else None
        named = shown.pop("policies")
        return {**shown, **named}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "JobDefinition":
        """Create a definition from the output of `to_json`, without validation.

        Raises `TypeError` for a wrong format.
        """
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


#: Field types that `from_json` ensures, because readers of definitions rely on them.
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
