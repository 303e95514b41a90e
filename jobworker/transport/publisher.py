"""Messages to workers: rendered by Celery's own producer once per kind of job, then sent by the batch."""

import base64
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import redis
from celery import Celery

#: kombu's Redis transport keeps one list per priority step and queue; it takes the lowest number first.
PRIORITY_STEPS = (0, 3, 6, 9)
_SEPARATOR = "\x06\x16"

#: Templates kept; a busy system has as many as it has jobs × limits.
_MOST_TEMPLATES = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """One attempt to be started by whichever worker gets it first."""

    execution: str
    attempt: int
    job: str
    revision: int
    task: str
    queue: str
    priority: int
    parameters: Mapping[str, Any]
    retries: int
    max_attempts: int | None
    time_limit: float | None
    soft_time_limit: float | None
    correlation_id: str
    scheduled_for: dt.datetime | None

    @property
    def id(self) -> str:
        """The Celery task id: the same however often the attempt is published."""
        return f"{self.execution}.{self.attempt}"


def list_name(queue: str, priority: int) -> str:
    """The Redis list for a queue and one of our priorities (9 is the most urgent)."""
    step = max(step for step in PRIORITY_STEPS if step <= 9 - priority)
    return f"{queue}{_SEPARATOR}{step}" if step else queue


def lists_of(queue: str) -> list[str]:
    """All Redis lists of a queue, the most urgent first."""
    return [f"{queue}{_SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS]


class Publisher:
    """Puts messages where Celery workers look for them, many in one round trip."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._app = Celery("jobworker-publisher", set_as_current=False, broker="memory://")
        self._templates: dict[tuple[Any, ...], dict[str, Any]] = {}

    def depths(self, queues: Sequence[str]) -> dict[str, int]:
        """How many messages wait in Redis per list of the given queues."""
        names = [name for queue in queues for name in lists_of(queue)]
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(name)
            return dict(zip(names, pipe.execute(), strict=True))

    def publish(self, messages: Iterable[Message]) -> None:
        """Send; raises `redis.RedisError` if Redis may not have taken all. Repeating is harmless."""
        by_list: dict[str, list[bytes]] = {}
        for message in messages:
            by_list.setdefault(list_name(message.queue, message.priority), []).append(self._render(message))
        with self._client.pipeline(transaction=False) as pipe:
            for name, rendered in by_list.items():
                pipe.lpush(name, *rendered)
            pipe.execute()

    def _render(self, message: Message) -> bytes:
        template = self._template(message)
        headers = {
            **template["headers"],
            "id": message.id,
            "root_id": message.execution,
            "retries": message.retries,
            "jobworker": {
                "execution": message.execution,
                "attempt": message.attempt,
                "job": message.job,
                "revision": message.revision,
                "max_attempts": message.max_attempts,
                "correlation_id": message.correlation_id,
                "scheduled_for": message.scheduled_for.isoformat() if message.scheduled_for else None,
            },
        }
        body = base64.b64encode(orjson.dumps(([], message.parameters, template["embed"])))
        properties = {**template["properties"], "correlation_id": message.id, "delivery_tag": message.id}
        return orjson.dumps(
            {**template["envelope"], "headers": headers, "properties": properties, "body": body.decode()}
        )

    def _template(self, message: Message) -> dict[str, Any]:
        key = (message.task, message.queue, message.priority, message.time_limit, message.soft_time_limit)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _MOST_TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = self._render_template(message)
        return template

    def _render_template(self, message: Message) -> dict[str, Any]:
        # Parameters stay out of the headers: Flower and `inspect` show those to anyone.
        rendered = self._app.amqp.as_task_v2(
            message.id,
            message.task,
            time_limit=message.time_limit,
            soft_time_limit=message.soft_time_limit,
            argsrepr="()",
            kwargsrepr="{…}",
            ignore_result=True,
            origin="jobworker",
        )
        return {
            "headers": rendered.headers,
            "embed": rendered.body[2],
            "envelope": {"content-encoding": "utf-8", "content-type": "application/json"},
            "properties": {
                **rendered.properties,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": message.queue},
                "priority": 9 - message.priority,
                "body_encoding": "base64",
            },
        }
