"""Backfill with real workers: the occurrences, their order, and the number of concurrent executions."""

import datetime as dt

from jobworker.services.schedules import backfill, schedules
from jobworker.services.schedules.backfill import BackfillOrder, BackfillRequest, BackfillResult
from tests.system_driver import SystemDriver

BEGIN = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAYS = 10


def run_backfill(engine: SystemDriver, order: BackfillOrder, concurrency: int) -> BackfillResult:
    """Run a backfill of ten days on more processes than it may use, and return its result."""
    engine.start_relay()
    engine.start_worker("-c", "4")
    engine.wait_until_ready("nominal")
    described = {"name": "daily", "job": "nominal", "rule": {"kind": "daily", "time": "06:00"}}
    schedules.create(engine.database, engine.clock, described, "test")
    request = BackfillRequest(BEGIN, BEGIN + dt.timedelta(days=DAYS), order, concurrency)
    done = backfill.backfill_schedule(engine.database, engine.clock, "daily", request, "test")
    engine.notify_relay()
    assert engine.wait_until_all_final() == {"Succeeded": DAYS}
    return done


def compute_max_concurrency(engine: SystemDriver) -> int:
    """Return the maximum number of concurrent executions; the jobs' records are in chronological order."""
    running = most = 0
    for line in engine.activity_log.read_text().splitlines():
        running += {"start": 1, "end": -1}[line.split()[2]]
        most = max(most, running)
    return most


def list_started(engine: SystemDriver) -> list[str]:
    """Return the executions in the order of their starts."""
    lines = [line.split() for line in engine.activity_log.read_text().splitlines()]
    return [execution for execution, _, activity, _ in lines if activity == "start"]


def test_backfill_with_one_lane_runs_oldest_first(engine: SystemDriver) -> None:
    done = run_backfill(engine, BackfillOrder.OLDEST_FIRST, 1)
    ids = [item.execution_id for item in done.items]
    assert (list_started(engine), compute_max_concurrency(engine)) == (ids, 1)
    results = [engine.get(str(execution)).result for execution in ids]
    assert results == [(BEGIN + dt.timedelta(days=day, hours=6)).isoformat() for day in range(DAYS)]


def test_backfill_runs_as_many_executions_as_lanes(engine: SystemDriver) -> None:
    lanes = 3
    done = run_backfill(engine, BackfillOrder.NEWEST_FIRST, lanes)
    ids = [str(item.execution_id) for item in done.items]
    assert [item.scheduled_for.day for item in done.items] == list(range(DAYS, 0, -1))
    assert compute_max_concurrency(engine) <= lanes
    order = list_started(engine)
    for lane in range(lanes):
        assert [execution for execution in order if execution in ids[lane::lanes]] == ids[lane::lanes]
