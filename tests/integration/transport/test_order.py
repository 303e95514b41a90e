"""Order of messages: urgent ones come first even after others were prefetched, and no queue starves."""

import collections
import time
from pathlib import Path

import pytest

from tests.integration.transport.transport_driver import TransportDriver, make_running_check
from tests.polling import wait_until


def _sort_by_start(driver: TransportDriver, executions: list[str]) -> list[str]:
    """Return these executions in the order of their starts."""
    selected = set(executions)
    return [execution for execution, _ in driver.engine.count_starts() if execution in selected]


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_urgent_message_overtakes_prefetched_messages(driver: TransportDriver, pool: str, tmp_path: Path) -> None:
    driver.start_worker("--pool", pool)
    # The jobs are short, so that the worker fetches ahead from now on.
    driver.expect_only_done(driver.publish(count=600))
    gate = tmp_path / "gate"
    slots = 1 if pool == "solo" else 2
    blocking = [driver.make_message("wait_for_file", path=str(gate)) for _ in range(slots)]
    executions = driver.publish_messages([*blocking, *(driver.make_message() for _ in range(40))])
    held, ahead = executions[:slots], executions[slots:]
    wait_until(make_running_check(driver, held))
    assert any(driver.list_in_flight().values())
    [urgent] = driver.publish(priority=9)
    if pool == "solo":  # The event loop of a solo worker runs the job itself, so aged messages are returned afterwards.
        time.sleep(0.5)
    else:
        wait_until(lambda: driver.count_queued() == 41, what="what was fetched ahead to go back")
    gate.touch()
    driver.expect_only_done([*executions, urgent])
    assert urgent in _sort_by_start(driver, [*ahead, urgent])[:slots]


def test_prefetched_message_of_a_blocked_worker_runs_elsewhere(driver: TransportDriver, tmp_path: Path) -> None:
    blocked = driver.start_worker("-n", "blocked@%h", wait=False)
    idle = driver.start_worker("-n", "idle@%h", "--queues", "background", wait=False)
    driver.wait_until_ready(blocked, idle)
    driver.expect_only_done(driver.publish(count=600))
    gate = tmp_path / "gate"
    blocking = [driver.make_message("wait_for_file", path=str(gate)) for _ in range(2)]
    executions = driver.publish_messages([*blocking, *(driver.make_message() for _ in range(40))])
    wait_until(make_running_check(driver, executions[:2]))
    driver.send_control("add_consumer", "default", destination=idle)
    wait_until(make_running_check(driver, executions), what="the others to run elsewhere")
    assert not gate.exists()
    gate.touch()
    driver.expect_only_done(executions)


def _count_starts_by_queue(driver: TransportDriver, by_queue: dict[str, list[str]], first: int) -> dict[str, int]:
    """Return the number of starts by queue among the first `first` starts."""
    of = {execution: queue for queue, executions in by_queue.items() for execution in executions}
    begun = _sort_by_start(driver, list(of))[:first]
    return dict(collections.Counter(of[execution] for execution in begun))


def test_queues_are_served_by_weight(driver: TransportDriver) -> None:
    by_queue = {queue: driver.publish(count=200, queue=queue) for queue in ("background", "default", "critical")}
    driver.start_worker("--pool", "solo")
    driver.expect_only_done([execution for executions in by_queue.values() for execution in executions])
    shares = _count_starts_by_queue(driver, by_queue, first=100)
    assert 50 <= shares["critical"] <= 70
    assert 20 <= shares["default"] <= 40
    assert 5 <= shares["background"] <= 15


def test_queues_are_served_strictly_in_the_order_given(driver: TransportDriver) -> None:
    names = ["background", "critical", "default", "another"]
    by_queue = {queue: driver.publish(count=50, queue=queue) for queue in sorted(names)}
    driver.start_worker("--pool", "solo", "--queues", ",".join(names), JOBWORKER_QUEUE_WEIGHTS="strict")
    executions = [execution for queue in names for execution in by_queue[queue]]
    driver.expect_only_done(executions)
    assert _sort_by_start(driver, executions) == executions


def test_invalid_weights_are_rejected_in_one_line(driver: TransportDriver) -> None:
    worker = driver.start_worker(wait=False, JOBWORKER_QUEUE_WEIGHTS="critical=lots")
    wait_until(lambda: not worker.is_alive(), what="the worker to end")
    said = driver.engine.read_log(worker)
    assert "error: JOBWORKER_QUEUE_WEIGHTS=critical=lots: 'critical=lots' should look like critical=6" in said
    assert "Traceback" not in said
