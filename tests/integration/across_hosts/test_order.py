"""Order with real workers: urgent executions overtake a backlog, the rest gets a share, paused queues start nothing."""

from jobworker.clock import SystemClock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.services import queues
from tests.engine import Engine
from tests.integration.across_hosts.conftest import list_started
from tests.polling import wait_until

SMALL_FEED_SETTINGS = {"JOBWORKER_FEED": "20"}


def submit_executions(engine: Engine, count: int, priority: int) -> list[str]:
    """Submit `count` executions that take a moment each."""
    return [engine.submit_one("hold", parameters={"seconds": 0.02}, priority=priority) for _ in range(count)]


def test_urgent_execution_overtakes_a_backlog(engine: Engine) -> None:
    engine.start_relay(**SMALL_FEED_SETTINGS)
    engine.start_worker("-c", "1")
    engine.wait_until_ready("hold")
    backlog = engine.submit("hold", 400, seconds=0.02)
    wait_until(lambda: len(list_started(engine)) > 5)
    urgent = engine.submit_one("hold", parameters={"seconds": 0.02}, priority=9)
    before = len(list_started(engine))
    engine.wait_until_final(urgent)
    overtook = len(list_started(engine)) - before
    assert overtook < 200, "the rest of the backlog came later"
    assert engine.wait_until_all_final() == {ExecutionState.SUCCEEDED: len(backlog) + 1}


def test_overtaken_execution_starts_before_the_backlog_is_done(engine: Engine) -> None:
    engine.start_relay(**SMALL_FEED_SETTINGS, JOBWORKER_AGEING="1")
    paused = queues.pause(engine.database, SystemClock(), "default", "tester", None)
    assert paused.row.paused_at is not None
    engine.start_worker("-c", "1")
    engine.wait_until_ready("hold")
    slow = engine.submit_one("hold", parameters={"seconds": 0.02}, priority=0)
    crowd = submit_executions(engine, 200, 9)
    wait_until(lambda: SystemClock().now().timestamp() > engine.get(slow).due_at.timestamp() + 1, what="its second")
    queues.resume(engine.database, SystemClock(), "default", "tester")
    engine.wait_until_all_final()
    order = list_started(engine)
    assert order.index(slow) < len(crowd) - 20, "long before the crowd was gone"


def test_paused_queue_starts_nothing_while_another_queue_runs(any_engine: Engine) -> None:
    engine = any_engine
    engine.start()
    engine.wait_until_final(engine.submit_one("noop"))
    queues.pause(engine.database, SystemClock(), "default", "tester", "a test")
    held = engine.submit("noop", 5)
    others = [engine.submit_one("noop", queue="critical") for _ in range(5)]
    for execution in others:
        engine.wait_until_final(execution)
    assert not set(list_started(engine)) & set(held)
    assert "paused by tester" in str(engine.get(held[0]).reason)
    assert engine.count_states()[ExecutionState.QUEUED] == 5
    queues.resume(engine.database, SystemClock(), "default", "tester")
    assert engine.wait_until_all_final() == {ExecutionState.SUCCEEDED: 11}


def test_pause_withdraws_messages_from_redis(engine: Engine) -> None:
    engine.start_relay()
    engine.start_worker("-c", "1")
    engine.wait_until_ready("hold")
    backlog = engine.submit("hold", 300, seconds=0.05)
    wait_until(lambda: len(list_started(engine)) > 5)
    queues.pause(engine.database, SystemClock(), "default", "tester", None)
    shown = wait_until(
        lambda: (default_queue := queues.get(engine.database, "default")).published < 20 and default_queue
    )
    assert shown
    assert shown.ready > 200
    queues.resume(engine.database, SystemClock(), "default", "tester")
    assert engine.wait_until_all_final() == {ExecutionState.SUCCEEDED: len(backlog)}
    assert set(engine.count_starts().values()) == {1}
