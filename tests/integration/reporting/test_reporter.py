"""Reporter of a job's process: log lines and progress are sent to Redis in order, bounded, and never lost silently."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from jobworker.clock import SystemClock
from jobworker.domain.executions import log_limits
from jobworker.domain.executions.log_limits import MAX_LOG_BYTES, DroppedLines
from jobworker.settings import Settings
from jobworker.transport import keys
from jobworker.worker.attempt import log_sender
from jobworker.worker.attempt.delivery import Delivery
from jobworker.worker.attempt.log_sender import LogSender
from jobworker.worker.attempt.reporter import AttemptReporter
from jobworker.worker.redis_connection import RedisConnection
from tests.polling import wait_until
from tests.servers import find_free_port

DELIVERY = Delivery("e1", 1, "talk", None, "c", None, "t", {}, {"page": 1})


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """Client of an empty Redis."""
    with contextlib.closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


@pytest.fixture
def manual_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send delay that the test does not reach: entries leave by `flush` alone."""
    monkeypatch.setattr(log_sender, "_SEND_DELAY_SECONDS", 3600.0)


def create_reporter(url: str) -> LogSender:
    return LogSender(RedisConnection(Settings.from_environment({"JOBWORKER_REDIS_URL": url})), SystemClock())


def create_attempt_reporter(reporter: LogSender) -> AttemptReporter:
    return AttemptReporter(reporter, SystemClock(), DELIVERY)


def list_entries(client: redis.Redis, stream: str) -> list[tuple[str, Any]]:
    """Return kind and data of all entries of a stream."""
    entries: Any = client.xrange(stream)
    return [(fields["kind"], json.loads(fields["data"])) for _, fields in entries]


def list_log_lines(client: redis.Redis) -> list[str]:
    """Return the lines on the log stream."""
    return [data["message"] for kind, data in list_entries(client, keys.LOGS) if kind == "log"]


def test_log_lines_are_sent_in_order_without_flush(client: redis.Redis, redis_url: str) -> None:
    attempt = create_attempt_reporter(create_reporter(redis_url))
    said = [f"line {number}" for number in range(1_500)]
    for line in said:
        attempt.log_line(line, "WARNING", "stderr")
    wait_until(lambda: len(list_log_lines(client)) == len(said))
    assert list_log_lines(client) == said
    kind, data = list_entries(client, keys.LOGS)[0]
    assert (kind, data["level"], data["logger"]) == ("log", "WARNING", "stderr")


@pytest.mark.usefixtures("manual_sending")
def test_attempt_end_waits_for_its_last_log_lines(client: redis.Redis, redis_url: str) -> None:
    attempt = create_attempt_reporter(create_reporter(redis_url))
    attempt.log_line("last")
    assert attempt.close() == {}
    assert list_log_lines(client) == ["last"]


@pytest.mark.usefixtures("manual_sending")
def test_dropped_log_lines_are_counted_in_their_place(
    client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sender, "_MAX_LINES", 10)
    reporter = create_reporter(redis_url)
    attempt = create_attempt_reporter(reporter)
    for number in range(25):
        attempt.log_line(f"line {number}")
    reporter.flush()
    attempt.log_line("line 25")
    lost = DroppedLines(15, sum(log_limits.compute_line_size(f"line {number}") for number in range(10, 25)))
    for number in range(26, 50):
        attempt.log_line(f"line {number}")
    attempt.close()
    # Ten lines, the notice about the rest, then eight more beside one line, and the notice about the last.
    expected = [f"line {number}" for number in (*range(10), *range(25, 34))]
    lines = list_log_lines(client)
    assert lines[10] == log_limits.format_gap_notice(lost)
    assert [line for line in lines if not line.startswith("[lost")] == expected
    assert lines[-1].startswith("[lost: 16 lines")


@pytest.mark.usefixtures("manual_sending")
def test_log_buffer_is_bounded_in_bytes(redis_url: str) -> None:
    reporter = create_reporter(redis_url)
    attempt = create_attempt_reporter(reporter)
    for _ in range(1_000):
        attempt.log_line("x" * 16_000)
    assert 3_900_000 < reporter._size <= 4 * 1024 * 1024


def test_log_lines_wait_in_the_buffer_while_the_relay_is_behind(
    client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sender, "_MAX_LOG_STREAM_SIZE", 300_000)
    monkeypatch.setattr(log_sender, "_MAX_BATCH_ENTRIES", 10)
    attempt = create_attempt_reporter(create_reporter(redis_url))
    said = [f"{number} " + "x" * 1_000 for number in range(2_000)]
    for line in said:
        attempt.log_line(line)
    seen: list[str] = []

    def read() -> bool:
        # Reading and deleting are one step, because a line added in between would be lost.
        with client.pipeline(transaction=True) as pipe:
            pipe.memory_usage(keys.LOGS)
            pipe.xrange(keys.LOGS)
            pipe.delete(keys.LOGS)
            size, entries, _ = pipe.execute()
        assert (size or 0) < 450_000
        seen.extend(json.loads(fields["data"])["message"] for _, fields in entries)
        return len(seen) >= len(said)

    wait_until(read, every=0.3)
    assert seen == said


@pytest.mark.usefixtures("manual_sending")
def test_unreachable_redis_delays_no_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sender, "_RETRY_DELAY_SECONDS", 3600.0)
    reporter = create_reporter(f"redis://127.0.0.1:{find_free_port()}/0")
    tried: list[int] = []
    really = reporter._try_send

    def count(batch: list[dict[str, str]]) -> bool:
        tried.append(len(batch))
        return really(batch)

    monkeypatch.setattr(reporter, "_try_send", count)
    for _ in range(50):
        attempt = create_attempt_reporter(reporter)
        attempt.log_line("kept")
        attempt.report_progress(1)
        assert attempt.close()["progress"]["done"] == 1
    assert tried == [1], "it knows by now that nobody answers"
    monkeypatch.setattr(log_sender, "_RETRY_DELAY_SECONDS", 0.0)
    reporter.flush()
    assert tried == [1, 50]


@pytest.mark.usefixtures("manual_sending")
def test_attempt_above_its_log_limit_counts_dropped_lines(client: redis.Redis, redis_url: str) -> None:
    reporter = create_reporter(redis_url)
    attempt = create_attempt_reporter(reporter)
    size = log_limits.compute_line_size("x" * 10_000)
    for _ in range(MAX_LOG_BYTES // size + 500):
        attempt.log_line("x" * 10_000)
        reporter.flush()
    attempt.close()
    assert len(list_log_lines(client)) == MAX_LOG_BYTES // size
    cuts = [data["dropped"] for kind, data in list_entries(client, keys.LOGS) if kind == "log_cut"]
    assert [sum(column) for column in zip(*cuts, strict=True)] == [500, 500 * size]
    assert len(cuts) < 10, "not one for each line"


def test_progress_reports_are_throttled_to_the_latest(client: redis.Redis, redis_url: str) -> None:
    attempt = create_attempt_reporter(create_reporter(redis_url))
    began = time.monotonic()
    number = 0

    def say_more() -> bool:
        nonlocal number
        for _ in range(100):
            number += 1
            attempt.report_progress(number, None, "on")
            attempt.metadata["page"] = number
        return len(list_entries(client, keys.EVENTS)) >= 6

    wait_until(say_more, every=0)
    ended = attempt.close()
    ticks = list_entries(client, keys.EVENTS)
    assert {kind for kind, _ in ticks} == {"progress", "metadata"}
    assert len(ticks) <= 2 * ((time.monotonic() - began) / log_sender._SEND_DELAY_SECONDS + 1)
    last = ended.get("progress") or [data for kind, data in ticks if kind == "progress"][-1]
    assert last["done"] == number


@pytest.mark.usefixtures("manual_sending")
def test_unsent_progress_and_metadata_are_returned_by_close(client: redis.Redis, redis_url: str) -> None:
    reporter = create_reporter(redis_url)
    attempt = create_attempt_reporter(reporter)
    attempt.report_progress(1, 2)
    attempt.metadata["page"] = 2
    attempt.metadata["more"] = 1
    attempt.take_updates()
    attempt.metadata["page"] = 3
    attempt.restore_updates()
    assert attempt.close() == {"progress": {"done": 1, "total": 2, "message": None}, "metadata": {"page": 3, "more": 1}}
    assert attempt.close() == {}


def test_progress_waits_while_the_relay_is_behind(
    client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_sender, "_MAX_EVENT_STREAM_LENGTH", 1)
    attempt = create_attempt_reporter(create_reporter(redis_url))
    for number in range(2):
        attempt.report_progress(number)
        wait_until(lambda: len(list_entries(client, keys.EVENTS)) == number + 1)  # noqa: B023
    attempt.report_progress(2)
    attempt.report_progress(3)
    attempt.log_line("lines have a stream of their own")
    wait_until(lambda: list_log_lines(client))
    assert len(list_entries(client, keys.EVENTS)) == 2
    client.delete(keys.EVENTS)
    wait_until(lambda: list_entries(client, keys.EVENTS))
    assert [data["done"] for _, data in list_entries(client, keys.EVENTS)] == [3]


def test_invalid_progress_is_logged_once_and_never_raises(client: redis.Redis, redis_url: str) -> None:
    class UnformattableArgument:
        def __str__(self) -> str:
            raise RuntimeError("cannot be printed")

    attempt = create_attempt_reporter(create_reporter(redis_url))
    attempt.report_progress(1, 2, UnformattableArgument())
    attempt.report_progress("half")
    assert attempt.close() == {}
    assert list_log_lines(client) == ["progress was ignored: cannot be printed"]
