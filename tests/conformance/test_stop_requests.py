"""Stop requests for started executions on their way to the workers: sent, repeated, and matched to the attempt."""

from collections.abc import Iterable

import pytest
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.domain.executions.execution import ExecutionState
from jobworker.relay.stop_requests import StopRequestSender
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.tables import core
from jobworker.transport.stop_requests import StopRequest
from tests.conformance.factories import NOW, insert_executions, make_execution


class RecordingStopRequests:
    """Writer of stop requests that records them."""

    def __init__(self) -> None:
        self.published: list[tuple[str, list[StopRequest]]] = []

    def publish(self, worker: str, orders: Iterable[StopRequest]) -> None:
        """Record the stop requests for a worker."""
        self.published.append((worker, list(orders)))


class CancellationDriver:
    """Driver for executions with cancel requests."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock(NOW)
        self.redis = RecordingStopRequests()
        self.stopper = StopRequestSender(database, self.redis, self.clock)  # type: ignore[arg-type]

    def request_cancel(self, state: str, attempt: int = 1, worker: str = "w1") -> str:
        """Create an execution in this state and request its cancellation."""
        with self.database.write() as connection:
            [execution_id] = insert_executions(connection, make_execution())
            assert executions.request_cancel(connection, execution_id, "ann", NOW)
        self.update_execution(execution_id, state=state, attempt=attempt, worker=worker)
        return execution_id

    def update_execution(self, execution: str, **values: object) -> None:
        """Update the row of an execution."""
        table = core.executions
        with self.database.write() as connection:
            connection.execute(sa.update(table).where(table.c.id == execution).values(**values))

    def run_turn(self, after: float = 0.0) -> list[tuple[str, list[StopRequest]]]:
        """Return the stop requests that are sent in a turn, `after` seconds later."""
        self.clock.advance(after)
        self.redis.published.clear()
        self.stopper.send_pending()
        return self.redis.published


@pytest.fixture
def driver(database: Database) -> CancellationDriver:
    return CancellationDriver(database)


def test_stop_requests_are_grouped_by_worker(driver: CancellationDriver) -> None:
    first, second, third = (
        driver.request_cancel("Running"),
        driver.request_cancel("Running", 2, "w2"),
        driver.request_cancel("Running"),
    )
    requests = dict(driver.run_turn())
    assert sorted(requests["w1"]) == sorted([StopRequest(first, 1, "ann"), StopRequest(third, 1, "ann")])
    assert requests["w2"] == [StopRequest(second, 2, "ann")]


def test_stop_request_is_repeated_until_the_execution_ends(driver: CancellationDriver) -> None:
    execution = driver.request_cancel("Running")
    assert [len(driver.run_turn(after)) for after in (0.0, 1.0, 3.0, 1.5, 1.0)] == [1, 0, 0, 1, 0]
    driver.update_execution(execution, state="Succeeded")
    assert driver.run_turn(60) == []


def test_next_attempt_gets_its_own_stop_request(driver: CancellationDriver) -> None:
    execution = driver.request_cancel("Running")
    driver.run_turn()
    driver.update_execution(execution, attempt=2, worker="w2")
    assert driver.run_turn(0.1) == [("w2", [StopRequest(execution, 2, "ann")])]


def test_running_execution_without_cancel_request_gets_no_stop_request(driver: CancellationDriver) -> None:
    with driver.database.write() as connection:
        [execution_id] = insert_executions(connection, make_execution())
    driver.update_execution(execution_id, state="Running", attempt=1, worker="w1")
    assert driver.run_turn() == []


def test_retrying_execution_with_cancel_request_is_cancelled_at_once(driver: CancellationDriver) -> None:
    """The request arrived while the end of the attempt was being recorded, and found the execution running."""
    execution = driver.request_cancel("Retrying")
    driver.update_execution(execution, due_at=NOW.replace(year=NOW.year + 1))
    assert driver.run_turn() == []
    with driver.database.read() as connection:
        row = executions.get(connection, execution)
    assert row is not None
    assert (row.state, row.cancel_requested_by, row.finished_at) == (ExecutionState.CANCELLED, "ann", NOW)
    assert driver.run_turn(60) == []
