"""Redis content that no version of JobWorker wrote: it is skipped and reported once, and all else is processed."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import structlog
from structlog.testing import capture_logs

from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.relay import maintenance
from jobworker.store import relay_state, workers
from jobworker.transport import keys
from jobworker.transport.publisher import get_list_names
from jobworker.transport.worker_registry import UnreadableKey
from tests.conftest import NOW
from tests.integration.relay.conftest import SEND, DispatchDriver, create_relay

LogEntries = list[structlog.typing.EventDict]

_DEEP_JSON = "[" * 50_000

#: JSON values of every type, and some that are difficult to store.
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**70, 1.5, -1e300, "", "text", "x" * 5000, "2026-99-99", [], [1], [[]], [None, None], {},
    {"a": {}},
)  # fmt: skip

#: Texts that are not JSON, or JSON of an unexpected type.
TEXTS = ("", "garbage", "{", "[1]", "[[1]]", "{}", '"text"', "null", "1e400", "NaN", '{"worker": 1}', _DEEP_JSON)

#: Bytes that are not UTF-8. The relay's client decodes every response.
BYTES = b"\xff\xfe\xc3("

#: Fields that the data of events may have, over all kinds.
FIELDS = (
    "worker", "token", "code_version", "runtime", "result", "result_file", "error", "reason", "delay", "snoozed",
    "timed_out", "by", "at", "task", "queue", "priority", "correlation_id", "args", "kwargs", "embedded", "message",
    "schedule", "done", "total", "level", "logger", "dropped", "progress", "metadata",
)  # fmt: skip


class RelayDriver:
    """Relay with an execution whose recorded end shows that the relay works."""

    def __init__(self, driver: DispatchDriver, redis_url: str) -> None:
        self.driver = driver
        driver.resign_leadership()
        self.relay = create_relay(driver, redis_url)
        self.relay.run_turn()

    @property
    def client(self) -> redis.Redis:
        return self.driver.client

    def publish_event(self, execution: str, kind: str = EventKind.SUCCEEDED, attempt: int = 1, **data: Any) -> None:
        """Publish a report, valid or not."""
        fields = {"kind": kind, "execution": execution, "attempt": str(attempt), "data": json.dumps(data)}
        self.client.xadd(keys.EVENTS, fields)  # type: ignore[arg-type]

    def run_turns(self, count: int = 6) -> None:
        """Run turns of the relay for some seconds. Errors within a turn must not be raised."""
        for _ in range(count):
            self.relay.run_turn()
            self.driver.clock.advance(1)

    def is_recording(self) -> bool:
        """Return whether an end that is reported now is recorded."""
        execution = self.driver.submit()
        self.publish_event(execution, result="ok")
        self.run_turns()
        return self.driver.get_execution(execution).state is ExecutionState.SUCCEEDED

    def read_problems(self) -> dict[str, str]:
        """Return the problems that `/readyz` reports."""
        with self.driver.database.read() as connection:
            return {problem["what"]: problem["detail"] for problem in relay_state.get_problems(connection)}


@pytest.fixture
def running(sqlite_driver: DispatchDriver, redis_url: str) -> RelayDriver:
    return RelayDriver(sqlite_driver, redis_url)


@pytest.fixture
def any_driver(driver: DispatchDriver, redis_url: str) -> RelayDriver:
    """Driver on both databases, which do not refuse the same values."""
    return RelayDriver(driver, redis_url)


@pytest.fixture
def log() -> Iterator[LogEntries]:
    with capture_logs() as lines:
        yield lines


def put_value(client: redis.Redis, key: str, kind: str, text: str | bytes = "garbage") -> None:
    """Write a value of this type to `key`."""
    client.delete(key)
    field: Any = text or "field"
    writers: dict[str, Callable[[], object]] = {
        "string": lambda: client.set(key, text),
        "list": lambda: client.lpush(key, text),
        "hash": lambda: client.hset(key, field, text),
        "set": lambda: client.sadd(key, text),
        "zset": lambda: client.zadd(key, {field: 1}),
        "stream": lambda: client.xadd(key, {field: text}),
    }
    writers[kind]()


def announce_worker(client: redis.Redis, *queues: str, **odd: Any) -> None:
    """Announce a live worker w8 that serves these queues; `odd` are further fields of its announcement."""
    announcement = {
        "worker": "w8",
        "host": "h",
        "pid": 1,
        "pool": "p",
        "concurrency": 1,
        "queues": queues,
        "catalogue": "d",
    }
    tasks = [SEND.task]
    more = {"tasks": tasks, "code_version": "v" * 71, "started_at": "2026-03-02T12:00:00+00:00"}
    client.zadd(keys.WORKERS, {"w8": 10**14})
    client.set(keys.WORKER.format(worker="w8"), json.dumps({**announcement, **more, **odd}))


_TYPES = ("string", "list", "hash", "set", "zset", "stream")
_GARBAGE: list[tuple[str, str | bytes]] = [*((kind, "garbage") for kind in _TYPES), *((kind, BYTES) for kind in _TYPES)]


@pytest.mark.parametrize("key", [keys.EPOCH, keys.EVENTS, keys.LOGS, keys.WAKE, keys.WORKERS, keys.POISON, keys.WATCH])
def test_redis_key_of_any_type_and_content_does_not_stop_the_relay(
    running: RelayDriver, key: str, log: LogEntries
) -> None:
    for kind, text in _GARBAGE:
        put_value(running.client, key, kind, text)
        try:
            running.run_turns()
        except redis.RedisError as error:  # As in `run`, an error of Redis may end a turn, and the next turn continues.
            running.relay._log_failure(error, 0)
            running.run_turns(1)
        assert running.is_recording(), (kind, text)
    aside = [line["what"] for line in log if line["event"] == "redis_key_set_aside"]
    assert set(aside) == {f"redis key {key}"}


@pytest.mark.parametrize(
    "pattern", [keys.WORKER, keys.RUNNING, keys.CATALOG, keys.FENCE, keys.ORDERS, keys.INFLIGHT, keys.RUN, keys.READY]
)
def test_garbage_under_a_worker_execution_or_queue_key_is_reported(
    running: RelayDriver, pattern: str, log: LogEntries
) -> None:
    name = pattern.format(worker="w9", digest="d", execution="e", queue="default")
    texts = [*_GARBAGE, *(("string", text) for text in TEXTS)]
    for kind, text in texts:
        running.client.zadd(keys.WORKERS, {"w9": 10**14})
        announce_worker(running.client, "default")
        running.relay._maintenance._registered_catalogs.clear()
        put_value(running.client, name, kind, text)
        running.run_turns(3)
    assert running.is_recording()
    reported = [line for line in log if line["event"] == "redis_key_unreadable"]
    again = [line for line, next_line in itertools.pairwise(reported) if line == next_line]
    assert not again, "each is reported once"
    if pattern in (keys.WORKER, keys.CATALOG):
        assert f"redis key {name}" in {line["what"] for line in reported}


@pytest.mark.parametrize("key", [keys.EVENTS, keys.LOGS, keys.WAKE])
@pytest.mark.parametrize("last", [f"{2**64 - 1}-{2**64 - 1}", f"{2**64 - 1}-5", "253402300800000-0"])
def test_stream_with_an_unusable_last_id_is_replaced(
    running: RelayDriver, key: str, last: str, log: LogEntries
) -> None:
    execution = running.driver.submit()
    running.client.xadd(key, {"garbage": "x"}, id=last)
    with contextlib.suppress(redis.ResponseError):
        running.publish_event(execution)  # The id of this event is invalid as well, if the stream accepts the event.
    running.run_turns()
    if running.driver.get_execution(execution).state is not ExecutionState.SUCCEEDED:
        running.publish_event(execution)
        running.run_turns()
    assert running.driver.get_execution(execution).state is ExecutionState.SUCCEEDED
    assert running.client.xinfo_stream(key)["last-generated-id"] < "2"
    assert running.is_recording()
    assert f"redis key {key}" in running.read_problems()
    assert sum(entry["event"] == "stream_ids_unusable" for entry in log) == 1


def test_announcements_with_values_of_other_types_are_skipped(running: RelayDriver) -> None:
    names = (
        "worker",
        "host",
        "pid",
        "pool",
        "concurrency",
        "queues",
        "tasks",
        "catalogue",
        "code_version",
        "started_at",
    )
    seen: list[UnreadableKey] = []
    for name, value in itertools.product(names, VALUES):
        announce_worker(running.client, "default", **{name: value})
        for announcement in running.relay._maintenance._registry.list_announcements(seen.append):
            maintenance._to_row(announcement, NOW)
    assert {problem.key for problem in seen} == {keys.WORKER.format(worker="w8")}
    assert all(problem.reason.startswith("it is not an announcement of a worker: ") for problem in seen)
    running.run_turns(2)
    assert running.is_recording()


def test_invalid_running_attempts_of_a_worker_are_skipped(running: RelayDriver) -> None:
    seen: list[UnreadableKey] = []
    for worker, text in zip("abcdefghijkl", TEXTS, strict=True):
        running.client.zadd(keys.WORKERS, {worker: 10**14})
        running.client.set(keys.RUNNING.format(worker=worker), text)
    running.client.zadd(keys.WORKERS, {"w8": 10**14})
    running.client.set(keys.RUNNING.format(worker="w8"), '[["e", 1]]')
    assert running.relay._maintenance._registry.get_running_attempts(seen.append) == {("e", 1)}
    assert len(seen) == len(TEXTS) - 2, "an empty text and an empty object say nothing"


def test_worker_with_an_image_digest_as_code_version_is_recorded(any_driver: RelayDriver) -> None:
    announce_worker(any_driver.client, "default", code_version="sha256:" + "0" * 64)
    any_driver.run_turns(2)
    with any_driver.driver.database.read() as connection:
        [row] = workers.list_live(connection)
    assert row.code_version == "sha256:" + "0" * 57


@pytest.mark.parametrize("kind", [*EventKind, "unheard_of"])
def test_events_with_values_of_other_types_are_skipped(any_driver: RelayDriver, kind: str, log: LogEntries) -> None:
    running = any_driver
    execution = running.driver.submit()
    for name, value in itertools.product(FIELDS, VALUES):
        running.publish_event(execution, kind, attempt=2, **{name: value})
    for text in TEXTS:
        running.client.xadd(keys.EVENTS, {"kind": kind, "execution": execution, "attempt": "1", "data": text})
    for odd in (
        {"kind": kind},
        {"attempt": "x"},
        {"attempt": str(2**80)},
        {"execution": "\0"},
        {"execution": "e" * 300},
    ):
        entry = {"kind": kind, "execution": execution, "attempt": "1", "data": "{}", **odd}
        running.client.xadd(keys.EVENTS, entry)  # type: ignore[arg-type]
    assert running.is_recording()
    unreadable = [line for line in log if line["event"] == "event_unreadable"]
    assert unreadable, "some of these are nonsense for every kind"
    assert len(unreadable) == len({line.get("item") or line["event_id"] for line in unreadable}), (
        "each is reported once"
    )
    assert f"redis key {keys.EVENTS}" in running.read_problems()


def test_log_lines_with_values_of_other_types_are_skipped(running: RelayDriver, log: LogEntries) -> None:
    execution = running.driver.submit()
    right = {"level": "INFO", "logger": "l", "message": "m", "at": "2026-03-02T12:00:00+00:00", "dropped": [1, 1]}
    for kind, name, value in itertools.product((EventKind.LOG, EventKind.LOG_CUT), right, VALUES):
        fields = events.encode(kind, execution, 1, {**right, name: value})
        running.client.xadd(keys.LOGS, fields)  # type: ignore[arg-type]
    running.client.xadd(keys.LOGS, {"nothing": "of it"})
    assert running.is_recording()
    assert [line for line in log if line["event"] == "event_unreadable"]


@pytest.mark.parametrize("key", [keys.EVENTS, keys.LOGS])
def test_entries_with_invalid_utf_8_are_skipped(any_driver: RelayDriver, key: str, log: LogEntries) -> None:
    line = {"level": "INFO", "logger": "l", "message": "m", "at": NOW.isoformat()}
    right: dict[Any, Any] = events.encode(EventKind.LOG, any_driver.driver.submit(), 1, line)
    data = right["data"].encode().replace(b'"m"', b'"%b"' % BYTES)
    odd = [{**right, "data": data}, {BYTES: BYTES}, *({**right, name: BYTES} for name in right)]
    ids = [any_driver.client.xadd(key, fields) for fields in odd]
    assert any_driver.is_recording()
    assert [line["item"] for line in log if line["event"] == "event_unreadable"] == ids
    assert list(any_driver.read_problems()) == [f"redis key {key}"]


def test_end_report_with_invalid_utf_8_fails_the_execution(any_driver: RelayDriver) -> None:
    execution = any_driver.driver.submit()
    entry = {"kind": "succeeded", "execution": execution, "attempt": "1", "data": b'{"result":"%b"}' % BYTES}
    any_driver.client.xadd(keys.EVENTS, entry)  # type: ignore[arg-type]
    any_driver.run_turns()
    row = any_driver.driver.get_execution(execution)
    assert (row.state, row.error and row.error["type"]) == (ExecutionState.FAILED, "ReportRefused")


def test_worker_names_with_invalid_utf_8_do_not_block_loss_detection(running: RelayDriver, log: LogEntries) -> None:
    odd: Any = {BYTES + str(number).encode(): 0 for number in range(20)}
    running.client.zadd(keys.WORKERS, {**odd, "w7": 1})
    running.run_turns(2)
    assert running.client.zrange(keys.WORKERS, 0, -1) == ["w7"]
    running.client.hset(keys.WATCH, mapping={"seen": 10**14, "from": 1})  # The worker counts as silent already.
    running.run_turns(2)
    assert running.client.exists(keys.FENCE.format(worker="w7"))
    assert [line["what"] for line in log if line["event"] == "redis_key_unreadable"] == [f"redis key {keys.WORKERS}"]


def test_queue_with_a_foreign_key_as_list_does_not_block_others(running: RelayDriver) -> None:
    put_value(running.client, get_list_names("critical")[1], "string")
    announce_worker(running.client, "critical", "background")
    stuck, going = running.driver.submit(queue="critical"), running.driver.submit(queue="background")
    running.run_turns()
    problems = running.read_problems()
    assert any("critical" in problem for problem in problems), problems
    assert running.driver.get_execution(stuck).dispatched_at is None
    assert running.driver.get_execution(going).dispatched_at is not None


def test_problem_disappears_with_its_key(running: RelayDriver, log: LogEntries) -> None:
    running.client.zadd(keys.WORKERS, {"w9": 10**14})
    running.client.set(keys.WORKER.format(worker="w9"), "garbage")
    running.run_turns(3)
    assert list(running.read_problems()) == ["redis key jw:worker:w9"]
    running.client.delete(keys.WORKER.format(worker="w9"))
    running.run_turns(3)
    running.driver.clock.advance(1000)
    running.run_turns(3)
    assert running.read_problems() == {}
