"""A message is never outside Redis, and what was lost on a wire is told and done once."""

import signal
from pathlib import Path

import pytest

from jobworker.transport.broker.channel import _FETCH_SHA
from tests.integration.transport.proxy import RedisProxy, RequestPredicate
from tests.integration.transport.yard import TransportDriver, make_running_check
from tests.waiting import until


def _is_fetch(sent: bytes) -> bool:
    return _FETCH_SHA.encode() in sent


def _reports_kind(what: str) -> RequestPredicate:
    """Whether a worker reports something of that kind."""
    word = b"$%d\r\n%s\r\n" % (len(what), what.encode())
    return lambda sent: b"EVALSHA" in sent and word in sent


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_fetch_whose_answer_is_lost_is_adopted_and_runs_once(yard: TransportDriver, proxy: RedisProxy, pool: str) -> None:
    worker = yard.start_worker("--pool", pool, JOBWORKER_REDIS_URL=proxy.url)
    yard.expect_only_done(yard.publish())
    proxy.drop_answer_to(_is_fetch)
    executions = yard.publish(count=2)  # Not more than there are slots: nothing else will wake the worker up.
    until(proxy.has_cut.is_set, what="the answer to be cut")
    yard.expect_only_done(executions)
    assert "fetch_connection_broke" in yard.engine.read_log(worker)
    assert worker.is_alive()


@pytest.mark.parametrize("what", ["tell", "end"])
def test_report_whose_answer_is_lost_is_told_once(yard: TransportDriver, proxy: RedisProxy, what: str, tmp_path: Path) -> None:
    yard.start_worker(JOBWORKER_REDIS_URL=proxy.url)
    yard.expect_only_done(yard.publish())  # From here on Redis knows the scripts.
    gate = tmp_path / "gate"
    if what == "tell":
        proxy.drop_answer_to(_reports_kind(what))
    held = yard.publish("wait_for_file", count=2, path=str(gate))
    until(make_running_check(yard, held))
    if what == "end":
        proxy.drop_answer_to(_reports_kind(what))
    gate.touch()
    until(proxy.has_cut.is_set, what="the answer to be cut")
    yard.expect_only_done([*held, *yard.publish(count=10)])


def test_messages_of_a_worker_that_dies_at_any_moment_go_to_another_one(yard: TransportDriver, proxy: RedisProxy) -> None:
    frozen = yard.start_worker("--pool", "threads", wait=False)
    unheard = yard.start_worker("--pool", "threads", "--queues", "background", wait=False, JOBWORKER_REDIS_URL=proxy.url)
    yard.wait_until_ready(frozen, unheard)
    # The first message of an empty queue: whoever waits for it is frozen, and killed.
    frozen.send_signal(signal.SIGSTOP)
    first = yard.publish(queue="default")
    # One that was fetched, and the worker never hears of it.
    proxy.drop_answer_to(_is_fetch)
    second = yard.publish(queue="background", count=2)
    until(proxy.has_cut.is_set, what="the answer to be cut")
    unheard.send_signal(signal.SIGKILL)
    assert yard.count_queued("default", "background") + sum(map(len, yard.list_in_flight().values())) == 3
    frozen.terminate(signal.SIGKILL)
    unheard.terminate(signal.SIGKILL)
    heir = yard.start_worker()
    yard.expect_only_done(first)
    # The same attempt, unless it was told that it may start: then it is lost, and that is told.
    until(lambda: all(yard.list_event_kinds(execution)[-1:] in (["succeeded"], ["lost"]) for execution in second))
    assert heir.is_alive()


def test_worker_killed_under_load_again_and_again(yard: TransportDriver) -> None:
    executions = yard.publish(count=300)
    for _ in range(2):
        worker = yard.start_worker("--pool", "threads")
        done = len(yard.list_events())
        until(lambda done=done: len(yard.list_events()) > done + 20, every=0.001)  # type: ignore[misc]
        worker.terminate(signal.SIGKILL)
    yard.start_worker()
    until(lambda: {execution for kind, execution, _ in yard.list_events() if kind in ("succeeded", "lost")} == set(executions))
    until(yard.is_empty)
    lost = {execution for kind, execution, _ in yard.list_events() if kind == "lost"}
    starts = yard.engine.count_starts()
    assert all(starts[execution, 1] == 1 for execution in set(executions) - lost)
    assert max(starts.values()) == 1
