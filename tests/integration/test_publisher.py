"""Messages to workers: their form in Redis, and as Celery reads them."""

import base64
import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import kombu
import pytest
import redis
from celery import Celery

from jobworker.transport import keys
from jobworker.transport.publisher import Message, Publisher, get_list_name

pytestmark = pytest.mark.every_redis

EXECUTION = "01995b7e-0000-7000-8000-000000000001"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """Client of an empty Redis."""
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


def make_message(**values: object) -> Message:
    fields: dict[str, object] = {
        "execution": EXECUTION,
        "attempt": 2,
        "job": "send",
        "revision": 3,
        "task": "tasks.mail.send",
        "queue": "default",
        "priority": 9,
        "parameters": {"to": "a"},
        "retries": 1,
        "max_attempts": None,
        "time_limit": 60.0,
        "soft_time_limit": None,
        "correlation_id": "c",
        "scheduled_for": None,
        **values,
    }
    return Message(**fields)  # type: ignore[arg-type]


def list_published(client: redis.Redis, *messages: Message) -> list[str]:
    """Publish these messages; return those in the list of the first one, in the order in which workers fetch them."""
    Publisher(client).publish(messages)
    taken: Any = client.lrange(get_list_name(messages[0].queue, messages[0].priority), 0, -1)
    return list(reversed(taken))


def test_message_begins_with_the_prefix_expected_by_scripts(client: redis.Redis) -> None:
    [raw] = list_published(client, make_message())
    assert raw.startswith(f'{{"headers":{{"jobworker":{{"execution":"{EXECUTION}","attempt":2,')


def test_message_equals_the_one_celery_sends(client: redis.Redis) -> None:
    [raw] = list_published(client, make_message())
    sent = json.loads(raw)
    header = sent["headers"].pop("jobworker")
    app = Celery(set_as_current=False)
    expected = app.amqp.as_task_v2(
        EXECUTION,
        "tasks.mail.send",
        [],
        {"to": "a"},
        retries=1,
        root_id=EXECUTION,
        time_limit=60.0,
        argsrepr="()",
        kwargsrepr="{…}",
        ignore_result=True,
        origin="jobworker",
    )
    assert sent["headers"] == json.loads(json.dumps(expected.headers))
    assert json.loads(base64.b64decode(sent["body"])) == json.loads(json.dumps(expected.body))
    properties = {name: sent["properties"][name] for name in expected.properties}
    assert properties == expected.properties
    assert header == {
        "execution": EXECUTION,
        "attempt": 2,
        "job": "send",
        "revision": 3,
        "max_attempts": None,
        "correlation_id": "c",
        "scheduled_for": None,
        "policies": {},
    }


def test_message_is_consumed_by_kombu_transport(client: redis.Redis, redis_url: str) -> None:
    Publisher(client).publish([make_message(attempt=1, priority=0), make_message(attempt=2, priority=9)])
    seen: list[tuple[str, Any]] = []

    def note(body: Any, got: kombu.Message) -> None:
        seen.append((got.properties["delivery_tag"], body))
        got.ack()

    with kombu.Connection(redis_url) as connection, connection.Consumer(kombu.Queue("default"), callbacks=[note]):
        while len(seen) < 2:
            connection.drain_events(timeout=10)
    chained = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert seen == [(f"{EXECUTION}.{attempt}", [[], {"to": "a"}, chained]) for attempt in (2, 1)]


@pytest.mark.parametrize("text", ["100 %", "%(body)b %b %%", 'a "quoted" \\ word', "ä\N{SNOWMAN}\n", "{}"])
def test_special_characters_do_not_corrupt_the_message(client: redis.Redis, text: str) -> None:
    moment = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)
    strange = make_message(
        job=text, task=text, queue="q", parameters={text: text}, correlation_id=text, scheduled_for=moment
    )
    [raw] = list_published(client, strange)
    sent = json.loads(raw)
    header = sent["headers"]["jobworker"]
    assert (header["job"], header["correlation_id"], sent["headers"]["task"]) == (text, text, text)
    assert header["scheduled_for"] == "2026-03-02T12:00:00+00:00"
    assert json.loads(base64.b64decode(sent["body"]))[1] == {text: text}


def test_messages_of_one_template_differ_only_in_their_values(client: redis.Redis) -> None:
    raws = list_published(
        client, *(make_message(execution=f"e{number}", parameters={"n": number}) for number in range(3))
    )
    sent = [json.loads(raw) for raw in raws]
    assert [message["headers"]["id"] for message in sent] == ["e0", "e1", "e2"]
    assert [json.loads(base64.b64decode(message["body"]))[1] for message in sent] == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    "change",
    [
        {"job": "other"},
        {"revision": 4},
        {"max_attempts": 5},
        {"time_limit": 1.0},
        {"task": "t"},
        {"policies": "[]"},
    ],
)
def test_message_templates_are_not_shared_across_kinds(client: redis.Redis, change: dict[str, Any]) -> None:
    first, second = list_published(client, make_message(), make_message(**change))
    assert json.loads(first) == json.loads(list_published(client, make_message())[-1])
    assert json.loads(second) != json.loads(first)


def test_queue_has_one_wake_token_however_much_is_published(client: redis.Redis) -> None:
    messages = [make_message(queue=queue, priority=priority) for queue in ("a", "b") for priority in (0, 5, 9)]
    for _ in range(3):
        Publisher(client).publish(messages)
    assert [client.llen(keys.READY.format(queue=queue)) for queue in ("a", "b", "c")] == [1, 1, 0]
    assert client.llen(get_list_name("a", 5)) == 3


def test_direct_call_message_keeps_chain_and_positional_arguments(client: redis.Redis) -> None:
    chain = [{"task": "next"}]
    [raw] = list_published(client, make_message(parameters={"*": [1, 2], "to": "a"}, call={"chain": chain}))
    args, kwargs, embedded = json.loads(base64.b64decode(json.loads(raw)["body"]))
    assert (args, kwargs) == ([1, 2], {"to": "a"})
    assert embedded == {"callbacks": None, "errbacks": None, "chain": chain, "chord": None}
    [plain] = list_published(client, make_message(parameters={"*": [1]}, queue="other"))
    assert json.loads(base64.b64decode(json.loads(plain)["body"]))[:2] == [[], {"*": [1]}]
