"""Celery's own tools on workers with JobWorker's transport."""

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

from tests.integration.transport.transport_driver import TransportDriver, make_running_check
from tests.polling import wait_until
from tests.servers import ServerProcess, find_free_port

_QUEUES = ["critical", "default", "background"]


def _inspect_worker(driver: TransportDriver, command: str) -> Any:
    """Return the response of the only worker."""
    answers = driver.inspect_workers(command)
    assert len(answers) == 1
    return next(iter(answers.values()))


def test_inspect_and_control_commands_work(driver: TransportDriver, tmp_path: Path) -> None:
    worker = driver.start_worker()
    gate = tmp_path / "gate"
    held = driver.publish("wait_for_file", count=2, path=str(gate))
    wait_until(make_running_check(driver, held))
    assert _inspect_worker(driver, "ping") == {"ok": "pong"}
    before = set(driver.client.scan_iter())
    assert {request["id"] for request in _inspect_worker(driver, "active")} == set(held)
    assert _inspect_worker(driver, "reserved") == []
    assert _inspect_worker(driver, "stats")["pool"]["max-concurrency"] == 2
    assert "noop" in _inspect_worker(driver, "registered")
    assert sorted(queue["name"] for queue in _inspect_worker(driver, "active_queues")) == sorted(_QUEUES)
    wait_until(
        lambda: not [key for key in set(driver.client.scan_iter()) - before if "pidbox" in key], what="no keys left"
    )

    driver.send_control("cancel_consumer", "default")
    gate.touch()
    driver.expect_only_done(held)
    default_executions, critical_executions = driver.publish(count=3), driver.publish(count=3, queue="critical")
    driver.expect_done(critical_executions)
    assert driver.count_queued("default") == 3
    driver.send_control("add_consumer", "default")
    driver.expect_only_done(default_executions)

    [answer] = driver.send_control("rate_limit", "noop", "2/s")
    assert "ok" in next(iter(answer.values()))
    driver.expect_only_done(driver.publish(count=6))

    driver.send_control("shutdown")
    wait_until(lambda: not worker.is_alive(), what="the worker to stop")
    assert driver.list_workers() == []


def test_unread_control_reply_expires(driver: TransportDriver) -> None:
    driver.start_worker()
    with Celery(broker=driver.server.url, set_as_current=False) as app, app.connection() as connection:
        mailbox = app.control.mailbox(connection)
        mailbox._publish("ping", {}, reply_ticket="1", channel=connection.default_channel)
        answers = mailbox.reply_queue.name
        wait_until(lambda: driver.client.llen(answers), what="the answer")
        assert 0 < driver.client.ttl(answers) <= 60


def test_control_replies_events_and_logs_omit_parameters_and_results(driver: TransportDriver, tmp_path: Path) -> None:
    worker = driver.start_worker("-E", "--loglevel", "DEBUG")
    gate = tmp_path / "hush-parameter"
    with _capture_events(driver) as events:
        held = driver.publish("wait_for_file", count=3, path=str(gate))
        wait_until(make_running_check(driver, held[:2]))
        answers = [driver.inspect_workers(command) for command in ("active", "reserved", "scheduled", "conf")]
        message = {
            "body": base64.b64encode(b'[["hush-body"], {}, {}]').decode(),
            "headers": {"task": "no.such", "id": "1"},
        }
        message |= {"content-type": "application/json", "content-encoding": "utf-8"}
        message["properties"] = {"body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": "default"}}
        driver.client.lpush("default", json.dumps(message), "no message, hush")
        gate.touch()
        [echoed] = driver.publish("echo", value="hush-result")
        driver.expect_done(held)
        wait_until(lambda: "succeeded" in driver.list_event_kinds(echoed), what="the result")
        wait_until(lambda: {"task-succeeded", "task-received"} <= {event["type"] for event in events}, what="events")
    assert "hush" not in json.dumps(answers)
    assert "hush" not in json.dumps(events, default=str)
    log = driver.engine.read_log(worker)
    assert "hush" not in log
    assert "no.such" in log


@contextlib.contextmanager
def _capture_events(driver: TransportDriver) -> Iterator[list[dict[str, Any]]]:
    """Collect Celery's events while the block runs."""
    events: list[dict[str, Any]] = []
    with Celery(broker=driver.server.url, set_as_current=False) as app, app.connection_for_read() as connection:
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


def test_autoscale_and_selected_queues_are_respected(driver: TransportDriver, tmp_path: Path) -> None:
    driver.start_worker("--autoscale", "3,1", "--queues", "default,background")
    gate = tmp_path / "gate"
    untouched = driver.publish(count=2, queue="critical")
    held = driver.publish("wait_for_file", count=3, path=str(gate))
    wait_until(make_running_check(driver, held), what="the pool to grow")
    gate.touch()
    driver.expect_done([*held, *driver.publish(count=20), *driver.publish(count=20, queue="background")])
    assert driver.count_queued("critical") == len(untouched)


def test_purge_deletes_queued_messages(driver: TransportDriver) -> None:
    driver.publish(count=5)
    driver.publish(count=2, queue="critical", priority=9)
    purge = driver.engine.start_celery("purge", "-f")
    wait_until(lambda: not purge.is_alive())
    assert "Purged 7 messages" in driver.engine.read_log(purge)
    driver.start_worker()
    driver.expect_only_done(driver.publish(count=2))


@pytest.fixture
def flower(driver: TransportDriver) -> tuple[ServerProcess, httpx.Client]:
    """Flower process, and a client that knows its password."""
    bind = f"127.0.0.1:{find_free_port()}"
    process = driver.engine.start_celery("flower", JOBWORKER_FLOWER_BIND=bind, JOBWORKER_FLOWER_PASSWORD="secret")
    return process, httpx.Client(base_url=f"http://{bind}", auth=("jobworker", "secret"))


def test_flower_shows_queue_lengths(driver: TransportDriver, flower: tuple[ServerProcess, httpx.Client]) -> None:
    process, client = flower
    worker = driver.start_worker("--queues", "critical")
    driver.publish(count=4)

    def lengths() -> dict[str, int] | None:
        process.check_alive()
        try:
            answer = client.get("/api/queues/length").json()
        except (httpx.HTTPError, json.JSONDecodeError):
            return None
        return {queue["name"]: queue["messages"] for queue in answer["active_queues"]}

    wait_until(lambda: lengths() and "critical" in (lengths() or {}), what=f"Flower; its log is {process.log}")
    driver.send_control("cancel_consumer", "critical")
    driver.publish(count=3, queue="critical")
    wait_until(lambda: (lengths() or {}).get("critical") == 3, what=f"the length of the queue; Flower says {lengths()}")
    page = client.get("/broker")
    assert page.status_code == 200
    assert "critical" in page.text
    worker.check_alive()
