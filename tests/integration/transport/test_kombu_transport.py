"""kombu's own transport, selected by one setting, and the messages that it leaves to JobWorker's transport."""

import json
import signal
from pathlib import Path

import pytest
from kombu import Connection

from tests.engine import Engine
from tests.integration.engine import test_faults as faults
from tests.integration.engine import test_outcomes as outcomes
from tests.integration.transport.transport_driver import TransportDriver, make_running_check
from tests.polling import wait_until
from tests.servers import RedisServer


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Engine:
    """Engine whose workers use kombu's own transport."""
    monkeypatch.setenv("JOBWORKER_TRANSPORT", "stock")
    engine: Engine = request.getfixturevalue("engine")
    return engine


def test_kombu_transport_records_every_outcome(stock: Engine) -> None:
    outcomes.test_worker_records_every_outcome(stock)


def test_kombu_transport_recovers_from_a_killed_worker(stock: Engine, tmp_path: Path) -> None:
    faults.test_killed_worker_is_detected_and_its_executions_run_again(stock, tmp_path)


def test_kombu_transport_runs_duplicated_messages_once(stock: Engine, own_server: RedisServer, tmp_path: Path) -> None:
    faults.test_duplicated_messages_run_once(stock, own_server, tmp_path)


def _return_by_kombu(driver: TransportDriver) -> int:
    """Let kombu fetch and requeue every message of the default queue; return their number."""
    with Connection(driver.server.url) as connection, connection.SimpleQueue("default") as queue:
        messages = [queue.get(timeout=5) for _ in range(driver.count_queued())]
        for message in messages:
            message.requeue()
    return len(messages)


def test_messages_restored_by_kombu_run_once(driver: TransportDriver) -> None:
    executions = driver.publish(count=10)
    names = list(driver.client.scan_iter(match="default*"))
    copies = {name: driver.client.lrange(name, 0, -1) for name in names}
    assert _return_by_kombu(driver) == 10
    for name, copied in copies.items():
        # Copies as published, before and after the message that kombu wrote: only one of the three may run.
        driver.client.lpush(name, *copied)
        driver.client.rpush(name, *copied)
    assert any(json.dumps(json.loads(text)) == text for text in driver.client.lrange(names[0], 0, -1))
    driver.start_worker()
    driver.expect_only_done(executions)


def test_attempt_restored_by_kombu_is_lost_with_its_worker(driver: TransportDriver, tmp_path: Path) -> None:
    """In flight the message looks like a foreign one. The attempt does not start again, and is not stuck."""
    gate = tmp_path / "gate"
    [execution] = driver.publish("wait_for_file", path=str(gate))
    _return_by_kombu(driver)
    dead = driver.start_worker("--pool", "solo", "-n", "dead@%h", wait=False)
    heir = driver.start_worker("--pool", "solo", "-n", "heir@%h", "--queues", "critical", wait=False)
    driver.wait_until_ready(dead, heir)
    wait_until(make_running_check(driver, [execution]))
    dead.send_signal(signal.SIGKILL)
    wait_until(lambda: driver.count_queued() == 1, what="the message to go back")
    driver.send_control("add_consumer", "default", destination=heir)
    wait_until(lambda: driver.list_event_kinds(execution)[-1:] == ["lost"], what="the attempt to be given up")
    wait_until(driver.is_empty)
    assert driver.list_event_kinds(execution).count("lost") == 1
    assert driver.engine.count_starts()[execution, 1] == 1
