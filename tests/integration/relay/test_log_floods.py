"""Floods of log lines: changes of state are committed first, and lines follow in pieces."""

import datetime as dt
import json
from typing import Any

import pytest

from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.relay.loop import Relay
from jobworker.relay.stream_reader import EventBatch, StreamOffsets
from jobworker.settings import Settings
from jobworker.store import relay_state
from jobworker.store.executions import timeline
from jobworker.transport import keys
from tests.integration.relay.conftest import DispatchDriver

pytestmark = pytest.mark.every_redis


class LogFloodDriver:
    """Relay, and the size of each of its transactions: (reports, lines)."""

    def __init__(self, driver: DispatchDriver, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.driver = driver
        driver.resign_leadership()
        self.relay = Relay(driver.database, redis_url, driver.clock, Settings.from_environment({}))
        self.commits: list[tuple[int, int]] = []
        self.relay.run_turn()  # After this turn the relay leads and knows this Redis.
        really = self.relay._commit

        def commit(offsets: StreamOffsets, batch: EventBatch) -> int:
            self.commits.append((len(batch.events), len(batch.logs)))
            return really(offsets, batch)

        monkeypatch.setattr(self.relay, "_commit", commit)

    def publish_event(self, execution: str, kind: EventKind, **data: Any) -> None:
        """Publish a report of a worker."""
        self.driver.client.xadd(keys.EVENTS, events.encode(kind, execution, 1, data))  # type: ignore[arg-type]

    def publish_log_lines(self, execution: str, *lines: str) -> None:
        """Publish log lines of a job."""
        for line in lines:
            data = {"level": "INFO", "logger": "job", "message": line, "at": dt.datetime.now(dt.UTC).isoformat()}
            self.driver.client.xadd(keys.LOGS, events.encode(EventKind.LOG, execution, 1, data))  # type: ignore[arg-type]

    def list_log_lines(self, execution: str) -> list[str]:
        """Return the stored log lines."""
        with self.driver.database.read() as connection:
            return [line.message for line in timeline.list_logs_after(connection, execution, "", 10_000)]

    def has_complete_lines(self, execution: str) -> bool:
        """Return whether the log is marked as complete up to the end."""
        with self.driver.database.read() as connection:
            snapshot = timeline.get_snapshot(connection, execution)
        assert snapshot is not None
        return snapshot.lines_complete


@pytest.fixture
def flood_driver(driver: DispatchDriver, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> LogFloodDriver:
    """Driver on SQLite, then on PostgreSQL."""
    return LogFloodDriver(driver, redis_url, monkeypatch)


def test_few_log_lines_are_committed_with_the_end(flood_driver: LogFloodDriver) -> None:
    execution = flood_driver.driver.submit()
    flood_driver.publish_log_lines(execution, "one", "two")
    flood_driver.publish_event(execution, EventKind.SUCCEEDED, result=1)
    flood_driver.relay.run_turn()
    assert flood_driver.commits == [(1, 2)]
    assert flood_driver.list_log_lines(execution) == ["one", "two"]
    assert flood_driver.has_complete_lines(execution)


def test_log_flood_is_committed_in_pieces_after_states(flood_driver: LogFloodDriver) -> None:
    talkative, quiet = flood_driver.driver.submit(), flood_driver.driver.submit()
    lines = [f"line {number}" for number in range(950)]
    flood_driver.publish_log_lines(talkative, *lines)
    flood_driver.publish_event(quiet, EventKind.SUCCEEDED, result=1)
    flood_driver.publish_event(talkative, EventKind.SUCCEEDED, result=1)
    flood_driver.relay.run_turn()
    # The clock stands still, so this turn continues until no entry is left.
    assert flood_driver.commits == [(2, 0), (0, 200), (0, 200), (0, 200), (0, 200), (0, 150)]
    assert flood_driver.list_log_lines(talkative) == lines
    assert flood_driver.has_complete_lines(talkative)


def test_turn_reads_a_bounded_number_of_log_lines_and_marks_the_rest(flood_driver: LogFloodDriver) -> None:
    execution = flood_driver.driver.submit()
    lines = [f"line {number}" for number in range(450)]
    flood_driver.publish_log_lines(execution, *lines)
    flood_driver.publish_event(execution, EventKind.SUCCEEDED, result=1)
    really = flood_driver.relay._record_batch

    def slowly(offsets: StreamOffsets, batch: EventBatch) -> int:
        flood_driver.driver.clock.advance(1.0 if batch.logs else 0.0)
        return really(offsets, batch)

    flood_driver.relay._record_batch = slowly  # type: ignore[method-assign]
    for complete in (False, False, True):
        flood_driver.relay.run_turn()
        assert flood_driver.has_complete_lines(execution) == complete
    assert flood_driver.commits == [(1, 0), (0, 200), (0, 200), (0, 50)]
    assert flood_driver.list_log_lines(execution) == lines


def test_many_reports_do_not_hide_missing_log_lines(flood_driver: LogFloodDriver) -> None:
    execution = flood_driver.driver.submit()
    for number in range(700):
        flood_driver.publish_event(execution, EventKind.PROGRESS, done=number)
    flood_driver.publish_log_lines(execution, "one")
    flood_driver.publish_event(execution, EventKind.SUCCEEDED, result=1)
    flood_driver.relay.run_turn()
    assert flood_driver.commits == [(701, 1)]
    assert flood_driver.driver.get_execution(execution).progress["done"] == 699  # type: ignore[index]
    assert flood_driver.has_complete_lines(execution)


def test_repeated_log_lines_are_recorded_once(flood_driver: LogFloodDriver) -> None:
    execution = flood_driver.driver.submit()
    flood_driver.publish_log_lines(execution, "one")
    flood_driver.relay.run_turn()
    with flood_driver.driver.database.read() as connection:
        state = relay_state.get(connection)
    assert state.logs_offset == flood_driver.driver.client.xinfo_stream(keys.LOGS)["last-generated-id"]
    flood_driver.driver.client.xadd(
        keys.LOGS, {"kind": "log", "execution": execution, "attempt": "1", "data": "rubbish"}
    )
    flood_driver.driver.client.xadd(keys.LOGS, {"kind": "log", "data": json.dumps({})})
    flood_driver.publish_log_lines(execution, "two")
    flood_driver.relay.run_turn()
    assert flood_driver.list_log_lines(execution) == ["one", "two"]
