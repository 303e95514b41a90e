"""Deadlines for the start with real processes: in SQL, in Redis, and after the first attempt."""

from pathlib import Path

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services import queues
from tests.engine import Engine
from tests.polling import wait_until


def test_execution_past_its_deadline_is_skipped_in_sql_and_in_redis(any_engine: Engine, tmp_path: Path) -> None:
    engine = any_engine
    engine.start()
    gate = tmp_path / "gate"
    blockers = engine.submit("wait_for_file", count=2, path=str(gate))
    wait_until(lambda: all(engine.is_running(key) for key in blockers), what="both slots to be busy")
    in_redis = engine.submit_one("noop", expires=2)
    wait_until(lambda: engine.get(in_redis).dispatched_at, what="the message in Redis")
    queues.create(engine.database, engine.clock, "nobody", "tester")
    in_sql = engine.submit_one("noop", queue="nobody", expires=0.5)
    due_later = engine.submit_one("noop", delay=0.2, queue="nobody", expires=0.5)
    in_time = engine.submit_one("noop", expires=600)

    for skipped in (in_sql, due_later):
        row = engine.wait_until_final(skipped)
        assert (row.state, row.attempt, row.worker) == (ExecutionState.SKIPPED, 0, None)
        assert row.expires_at is not None
        assert row.reason == f"its deadline {row.expires_at.isoformat()} passed before it started"
    assert engine.list_transitions(in_sql) == [(0, "Queued"), (0, "Skipped")]
    assert engine.list_transitions(due_later)[0] == (0, "Scheduled")
    assert engine.list_transitions(due_later)[-1] == (0, "Skipped")
    deadline = engine.get(in_redis).expires_at
    assert deadline is not None
    wait_until(lambda: engine.clock.now() > deadline)
    assert engine.get(in_redis).state is ExecutionState.QUEUED
    gate.touch()
    row = engine.wait_until_final(in_redis)
    assert (row.state, row.reason) == (
        ExecutionState.SKIPPED,
        f"its deadline {deadline.isoformat()} passed before it started",
    )
    assert engine.wait_until_final(in_time).state is ExecutionState.SUCCEEDED
    assert not {key for key, _ in engine.count_starts()} & {in_sql, due_later, in_redis}


def test_deadline_applies_to_the_first_attempt_only(engine: Engine) -> None:
    engine.start()
    retry = {"max_attempts": 3, "strategy": "fixed", "delay": 1.5}
    flaky = engine.submit_one("flaky", parameters={"good_attempt": 3}, expires=2, retry=retry)

    row = engine.wait_until_final(flaky)
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 3)
    assert row.expires_at is not None
    assert row.started_at is not None
    assert row.started_at > row.expires_at
    assert row.overrides is not None
    assert row.overrides["expires"] == 2
