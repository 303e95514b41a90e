"""Celery's own tools, used on workers with our transport."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery

from tests.integration.transport.yard import TransportDriver, make_running_check
from tests.servers import ServerProcess, find_free_port
from tests.waiting import until

_QUEUES = ["critical", "default", "background"]


def _inspect_worker(yard: TransportDriver, what: str) -> Any:
    """The answer of the only worker."""
    answers = yard.inspect_workers(what)
    assert len(answers) == 1
    return next(iter(answers.values()))


def test_inspect_and_control(yard: TransportDriver, tmp_path: Path) -> None:
    worker = yard.start_worker()
    gate = tmp_path / "gate"
    held = yard.publish("wait_for_file", count=2, path=str(gate))
    until(make_running_check(yard, held))
    assert _inspect_worker(yard, "ping") == {"ok": "pong"}
    before = set(yard.client.scan_iter())
    assert {request["id"] for request in _inspect_worker(yard, "active")} == set(held)
    assert _inspect_worker(yard, "reserved") == []
    assert _inspect_worker(yard, "stats")["pool"]["max-concurrency"] == 2
    assert "noop" in _inspect_worker(yard, "registered")
    assert sorted(queue["name"] for queue in _inspect_worker(yard, "active_queues")) == sorted(_QUEUES)
    until(lambda: not [key for key in set(yard.client.scan_iter()) - before if "pidbox" in key], what="no keys left")

    yard.send_control("cancel_consumer", "default")
    gate.touch()
    yard.expect_only_done(held)
    left, other = yard.publish(count=3), yard.publish(count=3, queue="critical")
    yard.expect_done(other)
    assert yard.count_queued("default") == 3
    yard.send_control("add_consumer", "default")
    yard.expect_only_done(left)

    [answer] = yard.send_control("rate_limit", "noop", "2/s")
    assert "ok" in next(iter(answer.values()))
    yard.expect_only_done(yard.publish(count=6))

    yard.send_control("shutdown")
    until(lambda: not worker.is_alive(), what="the worker to stop")
    assert yard.list_workers() == []


def test_an_answer_that_nobody_reads_expires(yard: TransportDriver) -> None:
    yard.start_worker()
    with Celery(broker=yard.server.url, set_as_current=False) as app, app.connection() as connection:
        mailbox = app.control.mailbox(connection)
        mailbox._publish("ping", {}, reply_ticket="1", channel=connection.default_channel)
        answers = mailbox.reply_queue.name
        until(lambda: yard.client.llen(answers), what="the answer")
        assert 0 < yard.client.ttl(answers) <= 60


def test_parameters_and_results_stay_out_of_remote_control_events_and_logs(yard: TransportDriver, tmp_path: Path) -> None:
    worker = yard.start_worker("-E", "--loglevel", "DEBUG")
    gate = tmp_path / "hush-parameter"
    with _capture_events(yard) as events:
        held = yard.publish("wait_for_file", count=3, path=str(gate))
        until(make_running_check(yard, held[:2]))
        answers = [yard.inspect_workers(what) for what in ("active", "reserved", "scheduled", "conf")]
        message = {
            "body": base64.b64encode(b'[["hush-body"], {}, {}]').decode(),
            "headers": {"task": "no.such", "id": "1"},
        }
        message |= {"content-type": "application/json", "content-encoding": "utf-8"}
        message["properties"] = {"body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": "default"}}
        yard.client.lpush("default", json.dumps(message), "no message, hush")
        gate.touch()
        [echoed] = yard.publish("echo", value="hush-result")
        yard.expect_done(held)
        until(lambda: "succeeded" in yard.list_event_kinds(echoed), what="the result")
        until(lambda: {"task-succeeded", "task-received"} <= {each["type"] for each in events}, what="events")
    assert "hush" not in json.dumps(answers)
    assert "hush" not in json.dumps(events, default=str)
    log = yard.engine.read_log(worker)
    assert "hush" not in log
    assert "no.such" in log


@contextlib.contextmanager
def _capture_events(yard: TransportDriver) -> Iterator[list[dict[str, Any]]]:
    """Celery's events, while the block runs."""
    events: list[dict[str, Any]] = []
    with Celery(broker=yard.server.url, set_as_current=False) as app, app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        consuming = threading.Event()

        def capture() -> None:
            with contextlib.suppress(OSError, TimeoutError):
                for _ in receiver.itercapture(limit=None, timeout=None, wakeup=True):
                    pass

        receiver.on_consume_ready = lambda *_, **__: consuming.set()
        thread = threading.Thread(target=capture, daemon=True)
        thread.start()
        assert consuming.wait(10)
        try:
            yield events
        finally:
            receiver.should_stop = True
            thread.join(10)


def test_autoscale_and_chosen_queues(yard: TransportDriver, tmp_path: Path) -> None:
    yard.start_worker("--autoscale", "3,1", "--queues", "default,background")
    gate = tmp_path / "gate"
    untouched = yard.publish(count=2, queue="critical")
    held = yard.publish("wait_for_file", count=3, path=str(gate))
    until(make_running_check(yard, held), what="the pool to grow")
    gate.touch()
    yard.expect_done([*held, *yard.publish(count=20), *yard.publish(count=20, queue="background")])
    assert yard.count_queued("critical") == len(untouched)


def test_purge(yard: TransportDriver) -> None:
    yard.publish(count=5)
    yard.publish(count=2, queue="critical", priority=9)
    purge = yard.engine.start_celery("purge", "-f")
    until(lambda: not purge.is_alive())
    assert "Purged 7 messages" in yard.engine.read_log(purge)
    yard.start_worker()
    yard.expect_only_done(yard.publish(count=2))


@pytest.fixture
def flower(yard: TransportDriver) -> tuple[ServerProcess, httpx.Client]:
    """Flower, and a client that knows its password."""
    bind = f"127.0.0.1:{find_free_port()}"
    process = yard.engine.start_celery("flower", JOBWORKER_FLOWER_BIND=bind, JOBWORKER_FLOWER_PASSWORD="secret")
    return process, httpx.Client(base_url=f"http://{bind}", auth=("jobworker", "secret"))


def test_flowers_queue_page(yard: TransportDriver, flower: tuple[ServerProcess, httpx.Client]) -> None:
    process, client = flower
    worker = yard.start_worker("--queues", "critical")
    yard.publish(count=4)

    def lengths() -> dict[str, int] | None:
        process.check_alive()
        try:
            answer = client.get("/api/queues/length").json()
        except (httpx.HTTPError, json.JSONDecodeError):
            return None
        return {queue["name"]: queue["messages"] for queue in answer["active_queues"]}

    until(lambda: lengths() and "critical" in (lengths() or {}), what=f"Flower; its log is {process.log}")
    yard.send_control("cancel_consumer", "critical")
    yard.publish(count=3, queue="critical")
    until(lambda: (lengths() or {}).get("critical") == 3, what=f"the length of the queue; Flower says {lengths()}")
    page = client.get("/broker")
    assert page.status_code == 200
    assert "critical" in page.text
    worker.check_alive()
