"""A job definition: which task, where it runs, what it may use. One revision of it is one immutable value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from jobworker.domain.execution import DEFAULT_PRIORITY

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}\Z")
QUEUE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}\Z")
DEFAULT_QUEUE = "default"

#: Queues that every worker serves unless it is told otherwise.
SHIPPED_QUEUES = ("critical", DEFAULT_QUEUE, "background")


class OnWorkerLost(StrEnum):
    """What becomes of an attempt whose worker died."""

    RETRY = "retry"
    FAIL = "fail"


class Owner(StrEnum):
    """Where a definition is edited."""

    CODE = "code"
    API = "api"


@dataclass(frozen=True, slots=True)
class Definition:
    """What a job is.

    `max_attempts` None means: as the task's own `max_retries` says. Limits are in seconds.
    `schedule` is a rule as JSON (see `domain.schedule`).
    """

    name: str
    task: str
    description: str = ""
    enabled: bool = True
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    defaults: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    on_worker_lost: OnWorkerLost = OnWorkerLost.RETRY
    schedule: Mapping[str, Any] | None = None
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As stored and shown; `max_attempts` is nested under `retry`, as in the API."""
        shown = {item.name: getattr(self, item.name) for item in fields(self)}
        shown["defaults"] = dict(self.defaults)
        shown["tags"] = list(self.tags)
        shown["on_worker_lost"] = self.on_worker_lost.value
        shown["schedule"] = dict(self.schedule) if self.schedule else None
        shown["retry"] = {"max_attempts": shown.pop("max_attempts")}
        return shown

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Definition":
        """The inverse of `to_json`, for what has been validated before."""
        values = dict(stored)
        values["max_attempts"] = values.pop("retry", {}).get("max_attempts")
        values["tags"] = tuple(values.get("tags", ()))
        values["on_worker_lost"] = OnWorkerLost(values.get("on_worker_lost", "retry"))
        return cls(**values)
