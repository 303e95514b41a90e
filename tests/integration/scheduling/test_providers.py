"""Scheduling providers: due schedules have the same effects whether beat or the relay itself finds them."""

import datetime as dt
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.schedules import pauses, schedules
from jobworker.services.schedules.schedules import ScheduleView
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.execution_filters import ExecutionFilters
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.schedules import schedule_rows
from jobworker.store.schedules.schedule_rows import ScheduleRow
from jobworker.store.tables.schedules import occurrences
from tests.engine import Engine, run_engine
from tests.polling import wait_until
from tests.servers import RedisServer, ServerProcess

_FIRING_TIMEOUT_SECONDS = 60.0

RedisFactory = Callable[..., RedisServer]


class SchedulingProviderDriver:
    """Engine with schedules, and a provider that reports due ones."""

    def __init__(self, engine: Engine, provider: str) -> None:
        self.engine = engine
        self._settings = {"JOBWORKER_SCHEDULING_PROVIDER": provider}
        self._beats = provider == "redbeat"
        self.relay = self.start_relay()
        if self._beats:
            engine.start_beat(**self._settings)
        engine.start_worker(**self._settings)
        engine.wait_until_ready()

    def start_relay(self) -> ServerProcess:
        """Start a relay, possibly a second one."""
        return self.engine.start_relay(**self._settings)

    def create_schedule(self, name: str = "tick", **fields: Any) -> ScheduleView:
        """Create a schedule of `noop` that is due every second by default."""
        spec = {"name": name, "job": "noop", "rule": {"kind": "interval", "every": 1}, **fields}
        return schedules.create(self.engine.database, self.engine.clock, spec, "test")

    def get_schedule(self, name: str = "tick") -> ScheduleRow:
        """Return the row of a schedule."""
        with self.engine.database.read() as connection:
            row = schedule_rows.get_by_name(connection, name)
        assert row is not None
        return row

    def list_occurrences(self, name: str = "tick") -> list[Any]:
        """Return the occurrence rows of a schedule by nominal time."""
        table, schedule_id = occurrences, self.get_schedule(name).id
        with self.engine.database.read() as connection:
            query = sa.select(table).where(table.c.schedule_id == schedule_id).order_by(table.c.scheduled_for)
            return list(connection.execute(query))

    def list_outcomes(self, name: str = "tick") -> list[str]:
        """Return the outcomes of a schedule's occurrences."""
        return [row.outcome for row in self.list_occurrences(name)]

    def list_executions(self, name: str = "tick") -> list[ExecutionRow]:
        """Return the executions of a schedule."""
        schedule_id = self.get_schedule(name).id
        with self.engine.database.read() as connection:
            rows = executions.list_page(connection, ExecutionFilters(), limit=200).items
        return [row for row in reversed(rows) if row.schedule_id == schedule_id]

    def wait_until_fired(self, count: int, name: str = "tick") -> None:
        """Wait until `count` occurrences have fired."""
        wait_until(
            lambda: self.list_outcomes(name).count("fired") >= count,
            _FIRING_TIMEOUT_SECONDS,
            what=f"{count} occurrences of {name}",
        )


@pytest.fixture(params=["redbeat", "internal"])
def provider(request: pytest.FixtureRequest) -> str:
    """Scheduling provider of the test."""
    answer: str = request.param
    return answer


@pytest.fixture
def driver(
    tmp_path: Path, sqlite_database: Database, sqlite_url: str, own_redis: Any, provider: str
) -> Iterator[SchedulingProviderDriver]:
    """Driver with a relay, a worker, and a beat if the provider needs one, on SQLite."""
    server = own_redis()
    with run_engine(tmp_path, sqlite_database, sqlite_url, server.url) as engine:
        yield SchedulingProviderDriver(engine, provider)


@pytest.fixture
def any_driver(
    tmp_path: Path, database: Database, database_url: str, own_redis: Any, provider: str
) -> Iterator[SchedulingProviderDriver]:
    """Driver with a relay, a worker, and a beat if the provider needs one, on SQLite, then on PostgreSQL."""
    server = own_redis()
    with run_engine(tmp_path, database, database_url, server.url) as engine:
        yield SchedulingProviderDriver(engine, provider)


def test_occurrence_has_one_execution_with_its_nominal_time(any_driver: SchedulingProviderDriver) -> None:
    driver = any_driver
    driver.create_schedule(parameters={"number": 5}, overlap="allow")
    driver.wait_until_fired(3)
    rows = driver.list_occurrences()
    nominal = [row.scheduled_for for row in rows]
    assert {later - earlier for earlier, later in itertools.pairwise(nominal)} == {dt.timedelta(seconds=1)}
    first = driver.list_executions()[0]
    assert (first.scheduled_for, first.created_by) == (nominal[0], "schedule:tick")
    assert driver.engine.wait_until_final(first.id).result == 5


def test_restarted_relay_catches_up_missed_occurrences(driver: SchedulingProviderDriver) -> None:
    driver.create_schedule(misfire={"policy": "catch_up", "grace": 1}, overlap="allow")
    driver.wait_until_fired(1)
    driver.relay.terminate(signal.SIGKILL)
    seen = driver.list_occurrences()[-1].scheduled_for
    wait_until(lambda: driver.engine.clock.now() > seen + dt.timedelta(seconds=5), what="some seconds without a relay")
    driver.start_relay()
    driver.wait_until_fired(8)
    nominal = [row.scheduled_for for row in driver.list_occurrences()]
    assert len(nominal) == len(set(nominal))
    assert nominal[-1] - nominal[0] == dt.timedelta(seconds=len(nominal) - 1)
    assert len(driver.list_executions()) == driver.list_outcomes().count("fired")


def test_overlap_policy_skips_while_an_execution_runs(driver: SchedulingProviderDriver) -> None:
    driver.create_schedule("skips", job="hold", parameters={"seconds": 3.5})
    wait_until(
        lambda: driver.list_outcomes("skips")[:3] == ["fired", "skipped_overlap", "skipped_overlap"],
        _FIRING_TIMEOUT_SECONDS,
    )
    driver.wait_until_fired(2, "skips")
    first, second = driver.list_executions("skips")[:2]
    assert driver.engine.wait_until_final(first.id).finished_at is not None
    assert second.scheduled_for is not None
    assert second.scheduled_for > (first.scheduled_for or second.scheduled_for)


def test_cancel_running_cancels_the_earlier_execution(driver: SchedulingProviderDriver) -> None:
    driver.create_schedule("takes_over", job="hold", parameters={"seconds": 60}, overlap="cancel_running", max_runs=2,
                  rule={"kind": "interval", "every": 4})  # fmt: skip
    driver.wait_until_fired(2, "takes_over")
    first, second = driver.list_executions("takes_over")
    assert driver.engine.wait_until_final(first.id).state is ExecutionState.CANCELLED
    driver.engine.wait_for_state(second.id, ExecutionState.RUNNING)
    driver.engine.cancel(second.id)
    wait_until(
        lambda: "exhausted" in driver.list_outcomes("takes_over"),
        _FIRING_TIMEOUT_SECONDS,
        what="the row after the last run",
    )
    assert driver.get_schedule("takes_over").next_at is None


def test_pause_ends_at_its_time_and_fires_once(driver: SchedulingProviderDriver) -> None:
    driver.create_schedule(on_resume="fire_once", overlap="allow")
    driver.wait_until_fired(1)
    now = driver.engine.clock.now()
    with driver.engine.database.write() as connection:
        until_moment = now + dt.timedelta(seconds=3)
        pauses.pause_schedule(connection, driver.get_schedule(), "a moment", until_moment, "test", now)
    wait_until(lambda: driver.get_schedule().paused_at is None, _FIRING_TIMEOUT_SECONDS, what="the end of the pause")
    held_up = [row for row in driver.list_occurrences() if now <= row.scheduled_for < until_moment]
    assert [row.outcome for row in held_up] == ["skipped_paused"] * (len(held_up) - 1) + ["fired"]
    assert held_up[-1].reason == "skipped by a pause, and fired when relay ended the pause"
    driver.wait_until_fired(4)


def test_consecutive_failures_pause_the_schedule(driver: SchedulingProviderDriver) -> None:
    driver.create_schedule("fails", job="fail", pause_after_failures=2, overlap="queue_all")
    wait_until(
        lambda: driver.get_schedule("fails").paused_at, _FIRING_TIMEOUT_SECONDS, what="the pause after two failures"
    )
    failed = [row.id for row in driver.list_executions("fails") if row.state is ExecutionState.FAILED]
    assert driver.get_schedule("fails").pause_note == f"2 executions in a row failed; the last of them is {failed[1]}"


def test_run_at_start_fires_on_creation_and_on_relay_start(driver: SchedulingProviderDriver) -> None:
    driver.create_schedule("at_start", run_at_start=True, rule={"kind": "daily", "time": "03:00"}, overlap="allow")
    driver.wait_until_fired(1, "at_start")
    driver.relay.terminate(signal.SIGTERM)
    driver.start_relay()
    driver.wait_until_fired(2, "at_start")
    assert [row.reason for row in driver.list_occurrences("at_start")] == ["it was created", "the relay was started"]
