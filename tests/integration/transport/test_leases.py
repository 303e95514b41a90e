"""Leases: a worker that is silent for its lease is given up with its messages in flight; a disconnected one is not."""

import json
import signal
from pathlib import Path
from typing import Any

from celery import Celery

from jobworker.transport import keys
from tests.integration.transport.transport_driver import TransportDriver, make_running_check
from tests.polling import wait_until


def test_dead_worker_messages_run_on_another_worker(driver: TransportDriver, tmp_path: Path) -> None:
    """Started attempts are lost, others run unchanged; another worker's heartbeat reaps, as there is no relay."""
    dead = driver.start_worker("--pool", "solo", wait=False)
    heir = driver.start_worker("--pool", "threads", "--queues", "critical", wait=False)
    driver.wait_until_ready(dead, heir)
    driver.expect_only_done(driver.publish(count=600))  # The jobs are short, so that the worker fetches ahead.
    gate = tmp_path / "gate"
    last = [driver.make_message("noop") for _ in range(60)]
    executions = driver.publish_messages([driver.make_message("wait_for_file", path=str(gate)), *last])
    wait_until(make_running_check(driver, executions[:1]))
    dead.send_signal(signal.SIGKILL)
    name = driver.get_worker_id(dead)
    taken = len(driver.list_in_flight()[name])
    wait_until(lambda: name not in driver.list_workers(), what="the dead worker to be given up")
    events = driver.list_events()
    lost = {execution for kind, execution, _ in events if kind == "lost"}
    assert [kind for kind, _, _ in events].count("worker_lost") == 1
    assert executions[0] in lost
    assert len(lost) < taken
    assert driver.count_queued() == 61 - len(lost)
    assert not any(driver.list_in_flight().values())
    driver.start_worker("--pool", "solo")
    driver.expect_only_done([execution for execution in executions if execution not in lost])


def test_frozen_worker_that_resumes_is_fenced_and_reports_nothing(driver: TransportDriver, tmp_path: Path) -> None:
    frozen = driver.start_worker("--pool", "threads", wait=False)
    other_worker = driver.start_worker("--pool", "solo", "--queues", "critical", wait=False)
    driver.wait_until_ready(frozen, other_worker)
    gate = tmp_path / "gate"
    held = driver.publish("wait_for_file", count=2, path=str(gate))
    wait_until(make_running_check(driver, held))
    wait_until(lambda: all(driver.list_event_kinds(execution) == ["running"] for execution in held))
    frozen.send_signal(signal.SIGSTOP)
    wait_until(
        lambda: all(driver.list_event_kinds(execution) == ["running", "lost"] for execution in held),
        what="both to be lost",
    )
    gate.touch()
    frozen.send_signal(signal.SIGCONT)
    wait_until(lambda: not frozen.is_alive(), what="the fenced worker to end")
    assert "worker_was_given_up" in driver.engine.read_log(frozen)
    assert all(driver.list_event_kinds(execution) == ["running", "lost"] for execution in held)
    other_worker.check_alive()


def test_foreign_message_that_kills_its_workers_is_set_aside(driver: TransportDriver) -> None:
    workers = [
        driver.start_worker("--pool", "solo", "-n", f"w{number}@%h", wait=False, JOBWORKER_WORKER_LEASE="1.5")
        for number in range(4)
    ]
    driver.wait_until_ready(*workers)
    with Celery(broker=driver.server.url, set_as_current=False) as app:
        sent = app.send_task("kill_worker", queue="default")
    poison: Any = wait_until(lambda: driver.client.lrange(keys.POISON, 0, -1), what="the message to be put aside")
    record = json.loads(poison[0])
    assert json.loads(record["message"])["headers"]["id"] == sent.id
    assert "3 workers" in record["reason"]
    [event] = driver.list_event_data("poisoned")
    assert (event["message"], event["task"], event["queue"]) == (sent.id, "kill_worker", "default")
    assert driver.engine.count_starts()["kill_worker", 1] == 3
    [survivor] = [worker for worker in workers if worker.is_alive()]
    driver.expect_only_done(driver.publish(count=5))
    survivor.check_alive()


def test_relay_detects_a_dead_worker_with_a_short_lease(driver: TransportDriver, tmp_path: Path) -> None:
    worker = driver.start_worker("--pool", "solo", JOBWORKER_WORKER_LEASE="1")
    [held] = driver.publish("wait_for_file", path=str(tmp_path / "gate"))
    wait_until(make_running_check(driver, [held]))
    worker.terminate(signal.SIGKILL)
    driver.engine.start_relay(JOBWORKER_WORKER_LEASE="1")
    wait_until(lambda: not driver.list_workers(), what="the dead worker to be given up")
