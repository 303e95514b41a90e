"""Concurrent changes of one execution by the relay and the API: they are serialized, and neither is undone."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from sqlalchemy import event

from jobworker.domain.errors import ExecutionNotCancellable
from jobworker.domain.executions import events
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.relay.event_recorder import record_events
from jobworker.relay.progress import record_progress
from jobworker.services.bulk import cancellation
from jobworker.services.bulk.actions import Selection
from jobworker.services.workflows import resolution
from jobworker.store.database.database import Database
from jobworker.store.executions import history
from tests.conformance.execution_driver import ExecutionDriver
from tests.conformance.factories import NOW

#: Longer than a transaction of these tests takes (s): a call that is unfinished after this time waits for a lock.
_WAIT_SECONDS = 0.5


class CallPause:
    """Pause of the first call of a function, after the function has returned and before the caller continues."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        original: Callable[..., object] = getattr(module, name)

        def paused(*args: object, **options: object) -> object:
            answer = original(*args, **options)
            if not self.reached.is_set():
                self.reached.set()
                assert self.go_on.wait(30)
            return answer

        monkeypatch.setattr(module, name, paused)


@pytest.fixture
def driver(database: Database) -> ExecutionDriver:
    return ExecutionDriver(database)


def run_in_threads(
    pool: ThreadPoolExecutor, pause: CallPause, first: Callable[[], object], second: Callable[[], object]
) -> Future[object]:
    """Run `first` up to the pause, then `second` as far as possible, then both to the end; return `second`'s future."""
    first_future = pool.submit(first)
    assert pause.reached.wait(30)
    second_future = pool.submit(second)
    threading.Event().wait(_WAIT_SECONDS)
    pause.go_on.set()
    first_future.result(30)
    return second_future


def test_late_success_does_not_undo_cancellation(driver: ExecutionDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = driver.submit()
    child = driver.submit("report", depends_on=[{"execution": parent}])
    driver.report_end(parent, EventKind.LOST, reason="its worker is gone")
    assert driver.get_state(parent) is ExecutionState.RETRYING
    pause = CallPause(monkeypatch, history, "get_many")
    with ThreadPoolExecutor(2) as pool:
        cancelled = run_in_threads(pool, pause, lambda: driver.report_end(parent), lambda: driver.cancel(parent))
        with pytest.raises(ExecutionNotCancellable):
            cancelled.result(30)
    finals = [state for state in driver.list_states(parent) if state in ("Succeeded", "Cancelled")]
    assert finals == [driver.get_state(parent)] == ["Succeeded"]
    assert driver.get_state(child) is ExecutionState.QUEUED


def test_concurrent_changes_in_any_order_do_not_deadlock(
    driver: ExecutionDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = driver.submit(), driver.submit()
    for execution in (first, second):
        driver.report_end(execution, EventKind.LOST, reason="its worker is gone")
    number = int(NOW.timestamp() * 1000) + 10_000

    def relay() -> None:
        progress = Event(events.format_stream_id((number, 0)), EventKind.PROGRESS, second, 1, {"done": 1})
        end = Event(events.format_stream_id((number + 1, 0)), EventKind.SUCCEEDED, first, 1, {"result": 1})
        with driver.database.write() as connection:
            record_progress(connection, [progress])
            recorded_events = record_events(connection, [end])
            resolution.resolve_dependents(connection, recorded_events.ended, NOW)

    pause = CallPause(monkeypatch, history, "get_many")
    with ThreadPoolExecutor(2) as pool:
        selection = Selection(ids=[first, second])
        cancelled = run_in_threads(
            pool, pause, relay, lambda: cancellation.cancel_executions(driver.database, driver.clock, selection, "ann")
        )
        cancelled.result(30)
    assert {driver.get_state(first), driver.get_state(second)} == {ExecutionState.SUCCEEDED, ExecutionState.CANCELLED}


def test_advisory_lock_is_taken_for_dependencies_not_for_plain_inserts(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    driver = ExecutionDriver(database)
    statements: list[str] = []

    @event.listens_for(database._writer, "before_cursor_execute")
    def note(_c: object, _k: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    parent = driver.submit()
    assert not any("pg_advisory_xact_lock" in statement for statement in statements)
    driver.submit("report", depends_on=[{"execution": parent}])
    assert any("pg_advisory_xact_lock" in statement for statement in statements)
    database.dispose()
