"""Faults between submission and final state: killed and frozen processes, duplicated and lost messages, lost data."""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services import queues
from jobworker.services.executions import executions
from jobworker.store import workers
from jobworker.store.workers import WorkerRow
from jobworker.transport import keys
from jobworker.transport.publisher import get_list_name
from tests.child_processes import filter_alive, list_started_pids
from tests.engine import Engine
from tests.polling import wait_until
from tests.servers import RedisServer

#: Redis list of the default queue at the default priority.
_LIST = get_list_name("default", 5)


def test_killed_worker_is_detected_and_its_executions_run_again(any_engine: Engine, tmp_path: Path) -> None:
    engine = any_engine
    _, worker = engine.start()
    gate = tmp_path / "gate"
    held = engine.submit_one("wait_for_file", parameters={"path": str(gate)})
    wait_until(lambda: engine.is_running(held))
    worker.terminate(signal.SIGKILL)
    engine.start_worker()
    wait_until(lambda: engine.is_running(held, attempt=2), what="the second attempt")
    gate.touch()

    row = engine.wait_until_final(held)
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 2)
    attempts = executions.list_attempts(engine.database, held).items
    assert [attempt.state.value for attempt in attempts] == ["Lost", "Succeeded"]
    assert attempts[0].worker != attempts[1].worker
    assert max(engine.count_starts().values()) == 1


def test_frozen_worker_that_resumes_is_fenced_and_reports_nothing(
    engine: Engine, own_server: RedisServer, tmp_path: Path
) -> None:
    _, sleeper = engine.start()
    gate = tmp_path / "gate"
    held = engine.submit_one("wait_for_file", parameters={"path": str(gate)})
    wait_until(lambda: engine.is_running(held))
    sleeper.send_signal(signal.SIGSTOP)  # Only the parent is stopped: it sends no heartbeat, and its child continues.
    engine.start_worker()
    wait_until(lambda: engine.is_running(held, attempt=2), what="the second attempt")
    gate.touch()

    row = engine.wait_until_final(held)
    wait_until(lambda: engine.count_ends()[held, 1], what="the frozen worker's job to come to its own end")
    sleeper.send_signal(signal.SIGCONT)
    wait_until(
        lambda: "worker_was_given_up" in engine.read_log(sleeper) and not sleeper.is_alive(),
        what="the fenced worker to end",
    )
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 2)
    assert engine.get(held) == row
    assert engine.list_transitions(held)[-2:] == [(2, "Running"), (2, "Succeeded")]


@contextlib.contextmanager
def _occupy_pool(engine: Engine, gate: Path) -> Iterator[None]:
    """Occupy both processes of the worker with a job until the block ends, so that the worker fetches no message."""
    held = engine.submit("wait_for_file", count=2, path=str(gate))
    wait_until(lambda: all(engine.is_running(key) for key in held), what="both slots to be busy")
    yield
    gate.touch()


def test_duplicated_messages_run_once(engine: Engine, own_server: RedisServer, tmp_path: Path) -> None:
    engine.start()
    with contextlib.closing(own_server.create_client()) as client:
        with _occupy_pool(engine, tmp_path / "gate"):
            engine.submit("noop", count=50)
            wait_until(lambda: client.llen(_LIST) >= 50, what="the messages in Redis")
            messages = client.lrange(_LIST, 0, -1)
            for _ in range(4):
                client.lpush(_LIST, *messages)

        assert engine.wait_until_all_final() == {"Succeeded": 52}
        wait_until(lambda: client.llen(_LIST) == 0, what="every copy to be taken")
    engine.wait_until_final(engine.submit_one("noop"))
    assert set(engine.count_starts().values()) == {1}


def test_lost_messages_are_published_again(engine: Engine, own_server: RedisServer, tmp_path: Path) -> None:
    engine.start()
    with contextlib.closing(own_server.create_client()) as client, _occupy_pool(engine, tmp_path / "gate"):
        engine.submit("noop", count=50)
        wait_until(lambda: client.llen(_LIST) >= 50, what="the messages in Redis")
        client.delete(_LIST)

    assert engine.wait_until_all_final() == {"Succeeded": 52}
    assert set(engine.count_starts().values()) == {1}


def test_executions_finish_after_redis_is_emptied(any_engine: Engine, own_server: RedisServer, tmp_path: Path) -> None:
    engine = any_engine
    engine.start()
    gate = tmp_path / "gate"
    held = engine.submit_one("wait_for_file", parameters={"path": str(gate)})
    wait_until(lambda: engine.is_running(held) and engine.get(held).state is ExecutionState.RUNNING)
    engine.submit("noop", count=300)
    with contextlib.closing(own_server.create_client()) as client:
        wait_until(lambda: engine.count_states().get("Succeeded", 0) > 20)
        recorded = engine.list_succeeded()
        client.flushall()
    later = engine.submit_one("noop")
    assert engine.wait_until_final(later).state is ExecutionState.SUCCEEDED
    gate.touch()

    assert engine.wait_until_all_final() == {"Succeeded": 302}
    assert engine.get(held).attempt == 1, "a running attempt survives the loss of its claim"
    # Ends that had not been read were lost with Redis, and their executions run again; ends recorded in SQL do not.
    starts = engine.count_starts()
    assert {starts[key, 1] for key in recorded} == {1}
    assert starts[held, 1] == 1
    assert max(starts.values()) <= 2


def test_attempt_whose_end_report_is_lost_with_redis_runs_again(
    engine: Engine, own_server: RedisServer, tmp_path: Path
) -> None:
    relay, _ = engine.start()
    gate = tmp_path / "gate"
    held = engine.submit_one("wait_for_file", parameters={"path": str(gate)})
    wait_until(lambda: engine.get(held).state is ExecutionState.RUNNING)
    relay.terminate(signal.SIGKILL)
    gate.touch()
    with contextlib.closing(own_server.create_client()) as client:
        run = keys.RUN.format(execution=held)
        wait_until(lambda: " finished " in str(client.get(run)), what="the report")
        client.flushall()
    engine.start_relay()

    row = engine.wait_until_final(held)
    assert (row.state, row.attempt) == (ExecutionState.SUCCEEDED, 2)
    first = executions.list_attempts(engine.database, held).items[0]
    assert (first.state.value, first.reason) == ("Lost", "no worker knows of it; Redis lost its report")


@pytest.mark.parametrize("down", [2.0, 5.0])
def test_busy_workers_survive_a_redis_restart(engine: Engine, own_server: RedisServer, down: float) -> None:
    _, worker = engine.start()
    held = engine.submit("hold", count=2, seconds=4)
    wait_until(lambda: all(engine.is_running(key) for key in held))
    engine.submit("noop", count=50)
    own_server.stop()
    accepted = engine.submit("noop", count=50)  # Submissions do not need Redis.
    time.sleep(down)
    own_server.start()

    assert engine.wait_until_all_final() == {"Succeeded": 102}
    assert worker.is_alive()
    assert engine.get(accepted[0]).attempt == 1
    assert set(engine.count_starts().values()) == {1}


def test_repeated_relay_kills_lose_and_duplicate_nothing(engine: Engine) -> None:
    relay, _ = engine.start()
    for _ in range(4):
        engine.submit("noop", count=100)
        done = len(engine.list_succeeded())
        wait_until(lambda done=done: len(engine.list_succeeded()) > done, every=0.001)  # type: ignore[misc]
        relay.terminate(signal.SIGKILL)
        relay = engine.start_relay()

    assert engine.wait_until_all_final() == {"Succeeded": 400}
    assert set(engine.count_starts().values()) == {1}
    with engine.database.read() as connection:
        attempts = connection.exec_driver_sql("SELECT count(*) FROM attempts").scalar()
        transitions = connection.exec_driver_sql("SELECT count(*) FROM transitions").scalar()
    assert (attempts, transitions) == (400, 1200)


def test_several_relays_and_workers_run_each_execution_once(any_engine: Engine) -> None:
    engine = any_engine
    first, _ = engine.start()
    engine.start_relay()
    engine.start_worker()
    engine.submit("noop", count=200)
    wait_until(lambda: engine.count_states().get("Succeeded", 0) > 20)
    first.terminate(signal.SIGKILL)
    engine.submit("noop", count=200)

    assert engine.wait_until_all_final() == {"Succeeded": 400}
    assert set(engine.count_starts().values()) == {1}


def test_stream_is_trimmed_only_up_to_the_recorded_offset(engine: Engine, own_server: RedisServer) -> None:
    relay, _ = engine.start()
    engine.submit("noop", count=100)
    engine.wait_until_all_final()
    with contextlib.closing(own_server.create_client()) as client:
        wait_until(lambda: client.xlen(keys.EVENTS) <= 1, what="the stream to be trimmed")
        relay.terminate(signal.SIGKILL)
        engine.start_relay().terminate(signal.SIGKILL)
        later = engine.submit("noop", count=20)
        relay = engine.start_relay()
        wait_until(lambda: all(engine.is_running(key) for key in later))
        relay.send_signal(signal.SIGSTOP)
        unread = client.xlen(keys.EVENTS)
        relay.send_signal(signal.SIGCONT)
    assert engine.wait_until_all_final() == {"Succeeded": 120}
    assert unread >= 1


def test_worker_that_shuts_down_cleanly_loses_nothing(engine: Engine) -> None:
    _, worker = engine.start()
    engine.submit("noop", count=200)
    wait_until(lambda: engine.count_states().get("Succeeded", 0) > 20)
    worker.terminate(signal.SIGTERM)
    engine.start_worker()

    assert engine.wait_until_all_final() == {"Succeeded": 200}
    assert set(engine.count_starts().values()) == {1}


def test_worker_and_beat_reject_a_redis_that_evicts(engine: Engine, own_server: RedisServer) -> None:
    with contextlib.closing(own_server.create_client()) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    for process in (engine.start_worker(), engine.start_beat()):
        wait_until(lambda process=process: not process.is_alive(), what="the process to end")  # type: ignore[misc]
        said = engine.read_log(process)
        assert "error: Redis evicts keys when it is full" in said
        assert "Traceback" not in said


def _list_live_workers(engine: Engine) -> list[WorkerRow]:
    with engine.database.read() as connection:
        return workers.list_live(connection)


def test_jobs_of_a_lost_threads_worker_hold_no_slot(any_engine: Engine, tmp_path: Path) -> None:
    engine = any_engine
    engine.start_relay()
    sleeper = engine.start_worker("--pool", "threads")
    engine.wait_until_ready()
    leaving = engine.submit_one("leave_processes", parameters={"stays": False})
    engine.wait_until_final(leaving)
    started_pids = list_started_pids(engine, leaving)
    gate = tmp_path / "gate"
    held = engine.submit("wait_for_file", count=2, path=str(gate))
    wait_until(lambda: engine.count_states() == {"Running": 2, "Succeeded": 1}, what="both to run")
    sleeper.send_signal(signal.SIGSTOP)
    wait_until(lambda: not _list_live_workers(engine), what="the worker to be given up")
    wait_until(lambda: engine.count_states().get("Queued") == 2, within=2.0, what="both to be taken from it")
    assert sum(queue.running for queue in queues.list_page(engine.database).items) == 0
    sleeper.send_signal(signal.SIGCONT)
    wait_until(lambda: not sleeper.is_alive(), what="the end of the worker that comes back")
    assert engine.count_states() == {"Queued": 2, "Succeeded": 1}
    wait_until(lambda: not filter_alive(started_pids), what="the end of what its jobs have left")
    gate.touch()
    engine.start_worker("--pool", "threads")
    assert [engine.wait_until_final(execution).attempt for execution in held] == [2, 2]
    for execution in held:
        assert [attempt.state.value for attempt in executions.list_attempts(engine.database, execution).items] == [
            "Lost",
            "Succeeded",
        ]
