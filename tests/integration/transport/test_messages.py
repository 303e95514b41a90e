"""Messages are always in Redis; requests and answers lost on a connection are repeated without a second effect."""

import signal
from pathlib import Path

import pytest

from jobworker.transport.broker.channel import _FETCH_SHA
from tests.integration.transport.proxy import RedisProxy, RequestPredicate
from tests.integration.transport.transport_driver import TransportDriver, make_running_check
from tests.polling import wait_until


def _is_fetch(sent: bytes) -> bool:
    return _FETCH_SHA.encode() in sent


def _reports_kind(kind: str) -> RequestPredicate:
    """Return a predicate that matches reports of this kind."""
    word = b"$%d\r\n%s\r\n" % (len(kind), kind.encode())
    return lambda sent: b"EVALSHA" in sent and word in sent


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_fetch_whose_answer_is_lost_is_adopted_and_runs_once(
    driver: TransportDriver, proxy: RedisProxy, pool: str
) -> None:
    worker = driver.start_worker("--pool", pool, JOBWORKER_REDIS_URL=proxy.url)
    driver.expect_only_done(driver.publish())
    proxy.drop_answer_to(_is_fetch)
    executions = driver.publish(count=2)  # Not more messages than slots, because the worker is not woken for more.
    wait_until(proxy.has_cut.is_set, what="the answer to be cut")
    driver.expect_only_done(executions)
    assert "fetch_connection_broke" in driver.engine.read_log(worker)
    assert worker.is_alive()


@pytest.mark.parametrize("kind", ["tell", "end"])
def test_report_whose_answer_is_lost_is_recorded_once(
    driver: TransportDriver, proxy: RedisProxy, kind: str, tmp_path: Path
) -> None:
    driver.start_worker(JOBWORKER_REDIS_URL=proxy.url)
    driver.expect_only_done(driver.publish())  # From here on Redis has the scripts.
    gate = tmp_path / "gate"
    if kind == "tell":
        proxy.drop_answer_to(_reports_kind(kind))
    held = driver.publish("wait_for_file", count=2, path=str(gate))
    wait_until(make_running_check(driver, held))
    if kind == "end":
        proxy.drop_answer_to(_reports_kind(kind))
    gate.touch()
    wait_until(proxy.has_cut.is_set, what="the answer to be cut")
    driver.expect_only_done([*held, *driver.publish(count=10)])


def test_messages_of_a_worker_that_dies_at_any_moment_are_recovered(driver: TransportDriver, proxy: RedisProxy) -> None:
    frozen = driver.start_worker("--pool", "threads", wait=False)
    unheard = driver.start_worker(
        "--pool", "threads", "--queues", "background", wait=False, JOBWORKER_REDIS_URL=proxy.url
    )
    driver.wait_until_ready(frozen, unheard)
    # The first message of an empty queue: the worker that waits for it is frozen, and killed.
    frozen.send_signal(signal.SIGSTOP)
    first = driver.publish(queue="default")
    # A message that was fetched without the worker receiving it.
    proxy.drop_answer_to(_is_fetch)
    second = driver.publish(queue="background", count=2)
    wait_until(proxy.has_cut.is_set, what="the answer to be cut")
    unheard.send_signal(signal.SIGKILL)
    assert driver.count_queued("default", "background") + sum(map(len, driver.list_in_flight().values())) == 3
    frozen.terminate(signal.SIGKILL)
    unheard.terminate(signal.SIGKILL)
    heir = driver.start_worker()
    driver.expect_only_done(first)
    # The attempt is unchanged unless the worker was allowed to start it: then it is lost, and reported as lost.
    wait_until(
        lambda: all(driver.list_event_kinds(execution)[-1:] in (["succeeded"], ["lost"]) for execution in second)
    )
    assert heir.is_alive()


def test_worker_killed_repeatedly_under_load_starts_attempts_once(driver: TransportDriver) -> None:
    executions = driver.publish(count=300)
    for _ in range(2):
        worker = driver.start_worker("--pool", "threads")
        done = len(driver.list_events())
        wait_until(lambda done=done: len(driver.list_events()) > done + 20, every=0.001)  # type: ignore[misc]
        worker.terminate(signal.SIGKILL)
    driver.start_worker()
    wait_until(
        lambda: (
            {execution for kind, execution, _ in driver.list_events() if kind in ("succeeded", "lost")}
            == set(executions)
        )
    )
    wait_until(driver.is_empty)
    lost = {execution for kind, execution, _ in driver.list_events() if kind == "lost"}
    starts = driver.engine.count_starts()
    assert all(starts[execution, 1] == 1 for execution in set(executions) - lost)
    assert max(starts.values()) == 1
