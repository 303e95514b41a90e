"""Default settings: lost workers and messages are detected in time."""

import contextlib
import signal
from pathlib import Path

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.executions import executions
from jobworker.settings import Settings
from jobworker.transport.publisher import get_list_name
from tests.engine import Engine
from tests.polling import wait_until
from tests.servers import RedisServer

#: Guaranteed maximum times until a lost worker and a lost message are detected (s).
_WORKER_LOSS_SECONDS, _MESSAGE_LOSS_SECONDS = 45, 60

_LIST = get_list_name("default", 5)


def test_default_timeouts_detect_killed_worker_and_lost_messages_in_time(
    engine: Engine, own_server: RedisServer, tmp_path: Path
) -> None:
    usual = Settings.from_environment({})
    settings = {
        "JOBWORKER_WORKER_LEASE": str(usual.worker_lease),
        "JOBWORKER_LOST_MESSAGE_AFTER": str(usual.lost_message_after),
    }
    engine.start_relay(**settings)
    worker = engine.start_worker("-n", "first@%h", **settings)
    engine.wait_until_ready("run_once_until_file")
    gate = tmp_path / "gate"
    retried = engine.submit_one("wait_for_file", parameters={"path": str(gate)})
    failed = engine.submit_one("run_once_until_file", parameters={"path": str(gate)})
    wait_until(lambda: engine.is_running(retried) and engine.is_running(failed), what="both slots to be busy")
    wait_until(lambda: {engine.get(key).state for key in (retried, failed)} == {ExecutionState.RUNNING})
    lost = engine.submit("noop", count=10)
    with contextlib.closing(own_server.create_client()) as client:
        wait_until(lambda: client.llen(_LIST) == 10, what="the messages in Redis")
        client.delete(_LIST)
        wait_until(
            lambda: client.llen(_LIST) == 10, within=_MESSAGE_LOSS_SECONDS, what="the messages to be published again"
        )

    engine.start_worker("-n", "second@%h", **settings)
    assert {engine.wait_until_final(key).state for key in lost} == {ExecutionState.SUCCEEDED}
    worker.terminate(signal.SIGKILL)
    wait_until(
        lambda: engine.is_running(retried, attempt=2), within=_WORKER_LOSS_SECONDS, what="the attempt that follows"
    )
    row = engine.wait_until_final(failed, within=5)
    assert (row.state, row.reason) == (ExecutionState.FAILED, "its worker stopped responding")
    assert [attempt.state for attempt in executions.list_attempts(engine.database, failed).items] == ["Lost"]
    gate.touch()
    assert engine.wait_until_final(retried).state is ExecutionState.SUCCEEDED
    assert set(engine.count_starts().values()) == {1}
