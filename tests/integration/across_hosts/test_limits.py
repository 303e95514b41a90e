"""Limits with real workers: concurrency and rate limits hold, and every key gets its turn."""

import collections
import datetime as dt
import signal

from jobworker.domain.executions.execution import ExecutionState
from tests.engine import Engine
from tests.integration.across_hosts.conftest import list_activity, list_started, start_two_workers
from tests.polling import wait_until


def test_concurrency_limit_holds_on_two_workers_after_a_relay_crash(any_engine: Engine) -> None:
    engine = any_engine
    relay = engine.start_relay()
    start_two_workers(engine)
    engine.wait_until_ready("shared")
    owner = {
        execution: tenant for tenant in ("a", "b", "c") for execution in engine.submit("shared", 12, tenant=tenant)
    }
    wait_until(lambda: len(list_started(engine)) >= 8)
    relay.terminate(signal.SIGKILL)
    engine.start_relay()
    assert engine.wait_until_all_final() == {ExecutionState.SUCCEEDED: 36}

    running: collections.Counter[str] = collections.Counter()
    most: collections.Counter[str] = collections.Counter()
    for execution, activity in list_activity(engine):
        running[owner[execution]] += 1 if activity == "start" else -1
        most["total"] = max(most["total"], running.total())
        most[owner[execution]] = max(most[owner[execution]], running[owner[execution]])
    assert most == {"total": 4, "a": 2, "b": 2, "c": 2}, "no more, and as many as may"
    assert len(set(list_started(engine))) == 36
    assert {engine.get(execution).attempt for execution in owner} == {1}


def test_small_tenant_does_not_wait_for_a_large_backlog(engine: Engine) -> None:
    engine.start_relay()
    start_two_workers(engine)
    engine.wait_until_ready("shared")
    much = set(engine.submit("shared", 60, tenant="much"))
    wait_until(lambda: len(list_started(engine)) >= 4)
    little = set(engine.submit("shared", 4, tenant="little"))
    engine.wait_until_all_final()
    order = list_started(engine)
    last_of_little = max(order.index(execution) for execution in little)
    after = sum(execution in much for execution in order[last_of_little:])
    assert after > 30, "what came first is far from done"


def test_rate_limit_holds_on_two_workers(engine: Engine) -> None:
    engine.start_relay()
    start_two_workers(engine)
    engine.wait_until_ready("paced")
    executions = {tenant: engine.submit("paced", 12, tenant=tenant) for tenant in ("a", "b")}
    engine.wait_until_all_final()
    for of_tenant in executions.values():
        starts = sorted(
            row.started_at for execution in of_tenant if (row := engine.get(execution)).started_at is not None
        )
        assert len(starts) == 12
        # Five starts in a second, plus those of a fifth of a second, however late a worker receives a message.
        for first, sixth in zip(starts, starts[7:], strict=False):
            assert sixth - first > dt.timedelta(seconds=1), "eight within a second"
        assert starts[-1] - starts[0] > dt.timedelta(seconds=1.5)
