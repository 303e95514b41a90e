"""Publication of messages: Celery's own producer renders a template per kind of job; messages are sent in batches."""

import binascii
import datetime as dt
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import redis
from celery import Celery

from jobworker.domain.executions.direct_call import POSITIONAL_ARGUMENTS
from jobworker.transport import keys
from jobworker.transport.scripts.common import PRIORITY_STEPS, SEPARATOR

#: Maximum number of cached templates; a busy system has as many as it has jobs × limits.
_MAX_TEMPLATES = 1000

#: Bytes of messages that are sent in one pipeline, plus one message: the relay holds this size twice.
_MAX_BATCH_BYTES = 4 * 1024 * 1024

#: A message of Celery's protocol 2, as kombu's Redis transport reads it. The scripts that fetch messages recognize
#: JobWorker's by their prefix: up to `attempt`, not a byte may change. Fields with a double `%` are filled in per
#: message.
_ENVELOPE = (
    b'{"headers":{"jobworker":{"execution":"%%(execution)b","attempt":%%(attempt)d,'
    b'"correlation_id":%%(correlation_id)b,"scheduled_for":%%(scheduled_for)b%%(metadata)b,%(own)b},'
    b'"id":"%%(execution)b","root_id":"%%(execution)b","retries":%%(retries)d,'
    b'"expires":%%(expires)b,%(headers)b},'
    b'"properties":{"correlation_id":"%%(execution)b","delivery_tag":"%%(execution)b.%%(attempt)d",'
    b'%(properties)b},"content-type":"application/json","content-encoding":"utf-8","body":"%%(body)b"}'
)

#: Fields that the envelope sets per message.
_PER_MESSAGE_FIELDS = frozenset({"id", "root_id", "retries", "expires", "correlation_id", "delivery_tag"})

#: Fields whose values determine the template of a message.
_TEMPLATE_FIELDS = operator.attrgetter(
    "task",
    "queue",
    "priority",
    "job",
    "revision",
    "max_attempts",
    "time_limit",
    "soft_time_limit",
    "policies",
    "announce",
    "apart",
)


@dataclass(frozen=True, slots=True)
class Message:
    """A message with one attempt, to be started by any worker of its queue.

    `expires_at`: the attempt may not start after that time. `policies`: the policies that the worker applies, by name,
    as the text of a JSON object. `metadata`: the metadata left by earlier attempts. `announce`: the worker reports the
    start before it starts the attempt. `apart`: the attempt shares its process with no other job. `call`: the options
    of a direct call with tasks that Celery chains to it, or with positional arguments without names.
    """

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
    policies: str = "{}"
    expires_at: dt.datetime | None = None
    metadata: Mapping[str, Any] | None = None
    announce: bool = False
    apart: bool = False
    call: Mapping[str, Any] | None = None


class _Template(NamedTuple):
    """The common part of messages of one kind, with placeholders for the rest."""

    envelope: bytes
    body: bytes


def get_list_name(queue: str, priority: int) -> str:
    """Return the Redis list for a queue and one of JobWorker's priorities (9 is the most urgent)."""
    step = max(step for step in PRIORITY_STEPS if step <= 9 - priority)
    return f"{queue}{SEPARATOR}{step}" if step else queue


def get_list_names(queue: str) -> list[str]:
    """Return all Redis lists of a queue, the most urgent first."""
    return [f"{queue}{SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS]


class Publisher:
    """Publishes messages to the lists that Celery workers read, many in one round trip."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._app = Celery("jobworker-publisher", set_as_current=False, broker="memory://")
        self._templates: dict[tuple[Any, ...], _Template] = {}

    def get_depths(self, queues: Sequence[str]) -> dict[str, int | None]:
        """Return how many messages wait in Redis per list of the given queues; None for a key that is not a list."""
        names = [name for queue in queues for name in get_list_names(queue)]
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.llen(name)
            answers = pipe.execute(raise_on_error=False)
        return {name: _parse_depth(answer) for name, answer in zip(names, answers, strict=True)}

    def publish(self, messages: Iterable[Message]) -> None:
        """Publish in parts of bounded size; raises `redis.RedisError` if Redis may not have accepted all.

        Publishing a message again is harmless.
        """
        by_list: dict[str, list[bytes]] = {}
        queues: set[str] = set()
        size = 0
        for message in messages:
            rendered = self._render(message)
            queues.add(message.queue)
            by_list.setdefault(get_list_name(message.queue, message.priority), []).append(rendered)
            size += len(rendered)
            if size >= _MAX_BATCH_BYTES:
                self._send(by_list, queues)
                by_list, queues, size = {}, set(), 0
        if by_list:
            self._send(by_list, queues)

    def _send(self, by_list: Mapping[str, Sequence[bytes]], queues: Iterable[str]) -> None:
        queue_names = sorted(queues)
        with self._client.pipeline(transaction=False) as pipe:
            for name, rendered in by_list.items():
                pipe.lpush(name, *rendered)
            for queue in queue_names:
                push_wake_token(pipe, queue)
            answers = pipe.execute(raise_on_error=False)
        failed = [answer for answer in answers[: len(by_list)] if isinstance(answer, Exception)]
        if failed:
            raise failed[0]
        if any(isinstance(answer, Exception) for answer in answers):
            self._push_wake_tokens_again(queue_names)

    def _push_wake_tokens_again(self, queues: Iterable[str]) -> None:
        """Notify the queues' workers again, after deleting token keys that are not lists."""
        for queue in queues:
            token = keys.READY.format(queue=queue)
            if self._client.type(token) not in ("list", "none"):
                self._client.delete(token)
        with self._client.pipeline(transaction=False) as pipe:
            for queue in queues:
                push_wake_token(pipe, queue)
            pipe.execute()

    def _render(self, message: Message) -> bytes:
        template = self._get_template(message)
        body = template.body % orjson.dumps(message.parameters) if message.call is None else _render_call_body(message)
        scheduled_for = message.scheduled_for
        return template.envelope % {
            b"execution": message.execution.encode(),
            b"attempt": message.attempt,
            b"correlation_id": orjson.dumps(message.correlation_id),
            b"scheduled_for": b'"%b"' % scheduled_for.isoformat().encode() if scheduled_for else b"null",
            b"metadata": b',"metadata":%b' % orjson.dumps(message.metadata) if message.metadata else b"",
            b"retries": message.retries,
            b"expires": b'"%b"' % message.expires_at.isoformat().encode() if message.expires_at else b"null",
            b"body": binascii.b2a_base64(body, newline=False),
        }

    def _get_template(self, message: Message) -> _Template:
        key = _TEMPLATE_FIELDS(message)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = self._render_template(message)
        return template

    def _render_template(self, message: Message) -> _Template:
        rendered = self._render_with_celery(message)
        headers = {name: value for name, value in rendered.headers.items() if name not in _PER_MESSAGE_FIELDS}
        properties = {
            **{name: value for name, value in rendered.properties.items() if name not in _PER_MESSAGE_FIELDS},
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": message.queue},
            "priority": 9 - message.priority,
            "body_encoding": "base64",
        }
        own = {name: getattr(message, name) for name in ("job", "revision", "max_attempts")}
        own.update((name, True) for name in ("announce", "apart") if getattr(message, name))
        own["policies"] = orjson.Fragment(message.policies)
        parts = {b"own": _dump_fields(own), b"headers": _dump_fields(headers), b"properties": _dump_fields(properties)}
        # Positional arguments (empty), the parameters, and the tasks that Celery would chain.
        return _Template(_ENVELOPE % parts, b"[[],%%b,{%b}]" % _dump_fields(rendered.body[2]))

    def _render_with_celery(self, message: Message) -> Any:
        # Parameters stay out of the headers, because Flower and `inspect` show headers to anyone.
        return self._app.amqp.as_task_v2(
            "",
            message.task,
            time_limit=message.time_limit,
            soft_time_limit=message.soft_time_limit,
            argsrepr="()",
            kwargsrepr="{…}",
            ignore_result=True,
            origin="jobworker",
        )


def _parse_depth(answer: Any) -> int | None:
    """Return the response of LLEN; None if the key is not a list. Raises any other error response."""
    if isinstance(answer, redis.ResponseError) and str(answer).startswith("WRONGTYPE"):
        return None
    if isinstance(answer, Exception):
        raise answer
    return int(answer)


def _render_call_body(message: Message) -> bytes:
    named = dict(message.parameters)
    positional = named.pop(POSITIONAL_ARGUMENTS, [])
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **(message.call or {})}
    return orjson.dumps([positional, named, embedded])


def push_wake_token(pipe: Any, queue: str) -> None:
    """Push one token, however many messages were published: the worker that takes it fetches from all its queues."""
    token = keys.READY.format(queue=queue)
    pipe.lpush(token, 1)
    pipe.ltrim(token, 0, 0)


def _dump_fields(fields: Mapping[str, Any]) -> bytes:
    """Return `{"a": 1}` as `"a":1`, escaped for a template."""
    return orjson.dumps(fields)[1:-1].replace(b"%", b"%%")
