"""Who is silent for its lease is given up, with what it had in hand; who was only cut off is not."""

import json
import signal
from pathlib import Path
from typing import Any

from celery import Celery

from jobworker.transport import keys
from tests.integration.transport.yard import Yard, is_busy
from tests.waiting import until


def test_dead_workers_messages_run_elsewhere(yard: Yard, tmp_path: Path) -> None:
    """What it may have started is lost, the rest is the same attempt: by another's heartbeat, there is no relay."""
    dead = yard.worker("--pool", "solo", wait=False)
    heir = yard.worker("--pool", "threads", "--queues", "critical", wait=False)
    yard.ready(dead, heir)
    yard.all_done(yard.publish(count=600))  # Over in no time, so that it fetches ahead.
    gate = tmp_path / "gate"
    last = [yard.message("noop") for _ in range(60)]
    executions = yard.publish_all([yard.message("wait_for_file", path=str(gate)), *last])
    until(is_busy(yard, executions[:1]))
    dead.send(signal.SIGKILL)
    name = yard.id_of(dead)
    taken = len(yard.in_flight()[name])
    until(lambda: name not in yard.workers(), what="the dead worker to be given up")
    told = yard.told()
    lost = {execution for kind, execution, _ in told if kind == "lost"}
    assert [kind for kind, _, _ in told].count("worker_lost") == 1
    assert executions[0] in lost
    assert len(lost) < taken
    assert yard.waiting() == 61 - len(lost)
    assert not any(yard.in_flight().values())
    yard.worker("--pool", "solo")
    yard.all_done([execution for execution in executions if execution not in lost])


def test_frozen_worker_wakes_fenced_and_ends_without_a_word(yard: Yard, tmp_path: Path) -> None:
    frozen = yard.worker("--pool", "threads", wait=False)
    other = yard.worker("--pool", "solo", "--queues", "critical", wait=False)
    yard.ready(frozen, other)
    gate = tmp_path / "gate"
    held = yard.publish("wait_for_file", count=2, path=str(gate))
    until(is_busy(yard, held))
    until(lambda: all(yard.kinds(execution) == ["running"] for execution in held))
    frozen.send(signal.SIGSTOP)
    until(lambda: all(yard.kinds(execution) == ["running", "lost"] for execution in held), what="both to be lost")
    gate.touch()
    frozen.send(signal.SIGCONT)
    until(lambda: not frozen.is_alive(), what="the fenced worker to end")
    assert "worker_was_given_up" in yard.engine.log(frozen)
    assert all(yard.kinds(execution) == ["running", "lost"] for execution in held)
    other.must_live()


def test_foreign_message_that_kills_its_workers_is_put_aside(yard: Yard) -> None:
    workers = [
        yard.worker("--pool", "solo", "-n", f"w{number}@%h", wait=False, JOBWORKER_WORKER_LEASE="1.5")
        for number in range(4)
    ]
    yard.ready(*workers)
    with Celery(broker=yard.server.url, set_as_current=False) as app:
        sent = app.send_task("kills_worker", queue="default")
    poison: Any = until(lambda: yard.client.lrange(keys.POISON, 0, -1), what="the message to be put aside")
    told = json.loads(poison[0])
    assert json.loads(told["message"])["headers"]["id"] == sent.id
    assert "3 workers" in told["reason"]
    [event] = yard.data("poisoned")
    assert (event["message"], event["task"], event["queue"]) == (sent.id, "kills_worker", "default")
    assert yard.engine.starts()["kills_worker", 1] == 3
    [survivor] = [worker for worker in workers if worker.is_alive()]
    yard.all_done(yard.publish(count=5))
    survivor.must_live()


def test_relay_alone_notices_a_dead_worker_however_short_the_lease(yard: Yard, tmp_path: Path) -> None:
    worker = yard.worker("--pool", "solo", JOBWORKER_WORKER_LEASE="1")
    [held] = yard.publish("wait_for_file", path=str(tmp_path / "gate"))
    until(is_busy(yard, [held]))
    worker.end(signal.SIGKILL)
    yard.engine.relay(JOBWORKER_WORKER_LEASE="1")
    until(lambda: not yard.workers(), what="the dead worker to be given up")
