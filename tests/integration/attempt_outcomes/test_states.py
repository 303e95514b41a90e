"""Final states and transitions of executions, with relay and database."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store.database.database import Database
from jobworker.transport.publisher import get_list_name
from tests.engine import Engine, run_engine
from tests.polling import wait_until
from tests.servers import RedisServer

_LIST = get_list_name("default", 5)


@pytest.fixture
def server(own_redis: Callable[..., RedisServer]) -> RedisServer:
    """Redis server of the engine."""
    return own_redis()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """Client of the engine's Redis."""
    with contextlib.closing(server.create_client()) as client:
        yield client


@pytest.fixture
def engine(tmp_path: Path, sqlite_database: Database, sqlite_url: str, server: RedisServer) -> Iterator[Engine]:
    """Engine without processes, on SQLite."""
    with run_engine(tmp_path, sqlite_database, sqlite_url, server.url) as engine:
        yield engine


def _submit_and_change_message(
    engine: Engine, client: redis.Redis, change: Callable[[dict[str, Any]], Any], **fields: Any
) -> str:
    """Submit an execution while all slots are busy, and change its queued message."""
    execution = engine.submit_one("noop", **fields)
    waiting: Any = client.lrange
    [message] = wait_until(lambda: [text for text in waiting(_LIST, 0, -1) if execution in text], what="the message")
    envelope = json.loads(message)
    change(envelope)
    with client.pipeline() as pipe:
        pipe.lrem(_LIST, 1, message)
        pipe.lpush(_LIST, json.dumps(envelope, separators=(",", ":")))
        pipe.execute()
    return execution


def test_cancelled_expired_and_interrupted_executions_reach_their_states(
    engine: Engine, client: redis.Redis, server: RedisServer, tmp_path: Path
) -> None:
    control = Celery(broker=server.url, set_as_current=False).control
    engine.start_relay()
    worker = engine.start_worker("-c", "1", "--", "worker.soft_shutdown_timeout=0")
    engine.wait_until_ready()
    gate = tmp_path / "gate"
    blocker = engine.submit_one("wait_for_file", parameters={"path": str(gate)})
    wait_until(lambda: engine.is_running(blocker))
    late = _submit_and_change_message(
        engine, client, lambda envelope: envelope["headers"].update(expires="2020-01-01T00:00:00+00:00")
    )
    unreadable = _submit_and_change_message(engine, client, lambda envelope: envelope.update(body="%%%"))
    cancelled = engine.submit_one("noop")
    wait_until(lambda: engine.get(cancelled).dispatched_at)
    engine.cancel(cancelled)
    assert engine.wait_until_final(cancelled).state is ExecutionState.CANCELLED
    gate.touch()

    assert engine.wait_until_final(late).state is ExecutionState.SKIPPED
    assert engine.list_transitions(late) == [(0, "Queued"), (0, "Skipped")]
    assert engine.wait_until_final(unreadable).state is ExecutionState.FAILED
    error = engine.get(unreadable).error or {}
    assert error["type"] == "MessageRejected"
    assert error["message"].startswith("the message cannot be read: ")
    running = engine.submit_one("hold", parameters={"seconds": 60})
    wait_until(lambda: engine.is_running(running))
    control.revoke(running, terminate=True)
    assert engine.wait_until_final(running).state is ExecutionState.CANCELLED
    assert engine.list_transitions(running) == [(0, "Queued"), (1, "Running"), (1, "Cancelled")]
    assert set(engine.count_starts()) == {(blocker, 1), (running, 1)}

    held = engine.submit_one("hold", parameters={"seconds": 2})
    wait_until(lambda: engine.is_running(held))
    worker.send_signal(signal.SIGQUIT)
    wait_until(lambda: engine.get(held).attempt == 1 and engine.get(held).state is not ExecutionState.RUNNING)
    engine.start_worker()
    row = engine.wait_until_final(held)
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 2), "an interrupted attempt burns no retry"
    assert (1, "Retrying") in engine.list_transitions(held)
    assert not engine.count_ends()[held, 1]


def test_task_declined_by_one_worker_runs_on_another(engine: Engine, client: redis.Redis, tmp_path: Path) -> None:
    relay = engine.start_relay()
    engine.start_worker("-c", "1", "-n", "has@here")
    engine.wait_until_ready()
    gate = tmp_path / "gate"
    blocker = engine.submit_one("wait_for_file", parameters={"path": str(gate)})
    wait_until(lambda: engine.is_running(blocker))
    engine.start_worker("-c", "1", "-n", "lacks@here", JOBWORKER_TASKS="tasks")
    engine.wait_until_ready("process_data_export")
    executions = [engine.submit_one("noop"), engine.submit_one("noop")]
    wait_until(lambda: "task_declined" in engine.read_log(relay), what="the other worker to decline")
    gate.touch()

    for execution in executions:
        row = engine.wait_until_final(execution)
        assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 1)
        assert engine.count_starts()[execution, 1] == 1
    assert engine.read_log(relay).count("task_declined") == 1
