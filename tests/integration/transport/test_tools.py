"""Celery's own tools, used on workers with our transport."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.transport.yard import Yard, is_busy
from tests.servers import Process, free_port
from tests.waiting import until

_QUEUES = ["critical", "default", "background"]


def _inspected(yard: Yard, what: str) -> Any:
    """The answer of the only worker."""
    answers = yard.inspect(what)
    assert len(answers) == 1
    return next(iter(answers.values()))


def test_inspect_and_control(yard: Yard, tmp_path: Path) -> None:
    worker = yard.worker()
    gate = tmp_path / "gate"
    held = yard.publish("wait_for_file", count=2, path=str(gate))
    until(is_busy(yard, held))
    assert _inspected(yard, "ping") == {"ok": "pong"}
    assert {request["id"] for request in _inspected(yard, "active")} == {f"{execution}.1" for execution in held}
    assert _inspected(yard, "reserved") == []
    assert _inspected(yard, "stats")["pool"]["max-concurrency"] == 2
    assert "noop" in _inspected(yard, "registered")
    assert sorted(queue["name"] for queue in _inspected(yard, "active_queues")) == sorted(_QUEUES)

    yard.control("cancel_consumer", "default")
    gate.touch()
    yard.all_done(held)
    left, other = yard.publish(count=3), yard.publish(count=3, queue="critical")
    yard.all_done_of(other)
    assert yard.waiting("default") == 3
    yard.control("add_consumer", "default")
    yard.all_done(left)

    [answer] = yard.control("rate_limit", "noop", "2/s")
    assert "ok" in next(iter(answer.values()))
    yard.all_done(yard.publish(count=6))

    yard.control("shutdown")
    until(lambda: not worker.is_alive(), what="the worker to stop")
    assert yard.workers() == []


def test_autoscale_and_chosen_queues(yard: Yard, tmp_path: Path) -> None:
    yard.worker("--autoscale", "3,1", "--queues", "default,background")
    gate = tmp_path / "gate"
    untouched = yard.publish(count=2, queue="critical")
    held = yard.publish("wait_for_file", count=3, path=str(gate))
    until(is_busy(yard, held), what="the pool to grow")
    gate.touch()
    yard.all_done_of([*held, *yard.publish(count=20), *yard.publish(count=20, queue="background")])
    assert yard.waiting("critical") == len(untouched)


def test_purge(yard: Yard) -> None:
    yard.publish(count=5)
    yard.publish(count=2, queue="critical", priority=9)
    purge = yard.engine.celery("purge", "-f")
    until(lambda: not purge.is_alive())
    assert "Purged 7 messages" in yard.engine.log(purge)
    yard.worker()
    yard.all_done(yard.publish(count=2))


@pytest.fixture
def flower(yard: Yard) -> tuple[Process, httpx.Client]:
    """Flower, and a client that knows its password."""
    bind = f"127.0.0.1:{free_port()}"
    process = yard.engine.celery("flower", JOBWORKER_FLOWER_BIND=bind, JOBWORKER_FLOWER_PASSWORD="secret")
    return process, httpx.Client(base_url=f"http://{bind}", auth=("jobworker", "secret"))


def test_flowers_queue_page(yard: Yard, flower: tuple[Process, httpx.Client]) -> None:
    process, client = flower
    worker = yard.worker("--queues", "critical")
    yard.publish(count=4)

    def lengths() -> dict[str, int] | None:
        process.must_live()
        try:
            answer = client.get("/api/queues/length").json()
        except (httpx.HTTPError, json.JSONDecodeError):
            return None
        return {queue["name"]: queue["messages"] for queue in answer["active_queues"]}

    until(lambda: lengths() and "critical" in (lengths() or {}), what=f"Flower; its log is {process.log}")
    yard.control("cancel_consumer", "critical")
    yard.publish(count=3, queue="critical")
    until(lambda: (lengths() or {}).get("critical") == 3, what=f"the length of the queue; Flower says {lengths()}")
    page = client.get("/broker")
    assert page.status_code == 200
    assert "critical" in page.text
    worker.must_live()
