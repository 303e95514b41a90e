"""Redrive of dead letters and cancellation by filter, with real workers."""

from pathlib import Path

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.bulk import cancellation
from jobworker.services.bulk.actions import Selection
from jobworker.services.executions import dead_letters, executions
from jobworker.services.executions.dead_letters import RedriveOptions
from jobworker.store.executions.execution_filters import ExecutionFilters
from tests.engine import Engine
from tests.polling import wait_until


def test_redriven_dead_letter_runs_again_and_names_its_origin(any_engine: Engine, tmp_path: Path) -> None:
    engine = any_engine
    engine.start()
    repaired, missing = tmp_path / "repaired", tmp_path / "missing"
    broken = engine.submit("crash_without_file", count=3, path=str(missing))
    other_execution = engine.submit_one("fail", parameters={"message": "for good"})
    assert {engine.wait_until_final(key).dead_letter for key in [*broken, other_execution]} == {"open"}
    first, second = dead_letters.list_groups(engine.database)
    assert (first.count, second.count) == (3, 1)
    assert (first.example.job, second.example.job) == ("crash_without_file", "fail")

    repaired.touch()
    alike = Selection(filters=ExecutionFilters(fingerprint=first.fingerprint))
    order = RedriveOptions(patch={"path": str(repaired)}, rate=2)
    done = dead_letters.redrive(engine.database, engine.clock, alike, order, "tester")
    assert (done.matched, done.done) == ({ExecutionState.FAILED: 3}, 3)
    reruns = {old: new for old, new in done.sample if new}
    assert sorted(reruns) == sorted(broken)
    rows = [engine.wait_until_final(reruns[old]) for old in broken]
    assert {(row.state, row.result, row.created_by) for row in rows} == {(ExecutionState.SUCCEEDED, "mended", "tester")}
    assert [row.rerun_of for row in rows] == broken
    started = [row.started_at for row in rows]
    assert started[2] is not None
    assert started[0] is not None
    assert rows[2].started_at >= rows[2].due_at  # type: ignore[operator]
    assert (rows[2].due_at - rows[0].due_at).total_seconds() == 1
    for old, new in reruns.items():
        rerun_rows = executions.list_page(engine.database, ExecutionFilters(rerun_of=old)).items
        assert [row.id for row in rerun_rows] == [new]
    assert dead_letters.redrive(engine.database, engine.clock, alike, order, "tester").done == 0
    assert [row.id for row in dead_letters.list_page(engine.database, ExecutionFilters()).items] == [other_execution]


def test_cancel_by_filter_stops_running_and_queued_executions(any_engine: Engine, tmp_path: Path) -> None:
    engine = any_engine
    engine.start()
    gate = tmp_path / "gate"
    running = engine.submit("wait_for_file", count=2, path=str(gate))
    wait_until(
        lambda: all(engine.get(key).state is ExecutionState.RUNNING for key in running), what="both slots to be busy"
    )
    queued = engine.submit("wait_for_file", count=30, path=str(gate))
    later = [engine.submit_one("wait_for_file", parameters={"path": str(gate)}, delay=60) for _ in range(3)]
    kept = engine.submit("noop", count=5)
    wait_until(lambda: all(engine.get(key).dispatched_at for key in queued), what="the messages in Redis")

    selection = Selection(filters=ExecutionFilters(job="wait_for_file"))
    done = cancellation.cancel_executions(engine.database, engine.clock, selection, "tester")
    assert done.done == 35
    assert engine.wait_until_all_final() == {"Cancelled": 35, "Succeeded": 5}
    assert {engine.get(key).cancel_requested_by for key in [*running, *queued, *later]} == {"tester"}
    starts = engine.count_starts()
    assert {key for key, _ in starts} == {*running, *kept}
