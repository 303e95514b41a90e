"""Workflows with real workers: chains, fan-out and fan-in, failures and triggers."""

import signal
from pathlib import Path
from typing import Any

import pytest

from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.services.jobs import jobs
from tests.integration.workflows.workflow_driver import WorkflowDriver, make_step
from tests.polling import wait_until


def _make_reference(source: str) -> dict[str, str]:
    return {"$from": source}


def test_step_results_become_parameters_of_later_steps(driver: WorkflowDriver) -> None:
    batch, ids = driver.submit_workflow(
        start=make_step("noop", parameters={"number": 5}),
        left=make_step("plain_celery_task", "start", parameters={"left": _make_reference("start"), "right": 10}),
        right=make_step("plain_celery_task", "start", parameters={"left": _make_reference("start"), "right": 20}),
        total=make_step(
            "plain_celery_task",
            "left",
            "right",
            parameters={"left": _make_reference("left"), "right": _make_reference("right")},
        ),
    )
    status = driver.wait_until_completed(batch)
    assert status.counts == {ExecutionState.SUCCEEDED: 4}
    assert driver.engine.get(ids["total"]).result == 15 + 25
    starts = {name: driver.engine.get(execution).started_at for name, execution in ids.items()}
    ends = {name: driver.engine.get(execution).finished_at for name, execution in ids.items()}
    for first, then in (("start", "left"), ("start", "right"), ("left", "total"), ("right", "total")):
        assert ends[first] <= starts[then]  # type: ignore[operator]


def test_long_chain_runs_in_order(driver: WorkflowDriver) -> None:
    steps: dict[str, Any] = {"s0": make_step("noop", parameters={"number": 0})}
    for number in range(1, 20):
        before = f"s{number - 1}"
        steps[f"s{number}"] = make_step(
            "plain_celery_task", before, parameters={"left": _make_reference(before), "right": 1}
        )
    batch, ids = driver.submit_workflow(**steps)
    driver.wait_until_completed(batch)
    assert driver.engine.get(ids["s19"]).result == 19


@pytest.mark.parametrize("failing", ["fail", "kill_own_process_once"])
def test_failed_step_skips_fails_or_continues_its_dependents(driver: WorkflowDriver, failing: str) -> None:
    batch, ids = driver.submit_workflow(
        bad=make_step(failing),
        skips=make_step("noop", "bad"),
        behind_skip=make_step("noop", "skips"),
        fails=make_step("noop", {"step": "bad", "otherwise": "fail"}),
        continues=make_step("noop", {"step": "bad", "otherwise": "continue"}),
        handler=make_step("noop", {"step": "bad", "on": "failure"}),
        elsewhere=make_step("noop"),
        last=make_step(
            "noop", *({"step": step, "on": "any"} for step in ("behind_skip", "fails", "continues", "handler"))
        ),
    )
    assert driver.wait_for_final_states(ids) == {
        "bad": ExecutionState.FAILED,
        "skips": ExecutionState.SKIPPED,
        "behind_skip": ExecutionState.SKIPPED,
        "fails": ExecutionState.FAILED,
        "continues": ExecutionState.SUCCEEDED,
        "handler": ExecutionState.SUCCEEDED,
        "elsewhere": ExecutionState.SUCCEEDED,
        "last": ExecutionState.SUCCEEDED,
    }
    assert driver.wait_until_completed(batch).finished == 8
    begun = {execution for execution, _ in driver.engine.count_starts()}
    assert not begun & {ids[name] for name in ("skips", "behind_skip", "fails")}


def test_trigger_starts_a_job_after_each_matching_end(driver: WorkflowDriver) -> None:
    engine = driver.engine
    policies = {"retry": {"max_attempts": None}, "trigger_after": [
        {"job": "noop", "on": "success", "parameters": {"left": _make_reference("noop"), "right": 1}},
        {"job": "fail", "on": "failure", "parameters": {"left": 100}},
    ]}  # fmt: skip
    definition = JobDefinition("after", "plain_celery_task", policies=policies)
    jobs.create(engine.database, engine.clock, definition, "tester")
    good = [engine.submit_one("noop", parameters={"number": number}, correlation_id="c") for number in range(10)]
    bad = engine.submit_one("fail")

    wait_until(lambda: len(driver.list_executions(job="after")) == 11, what="eleven triggered executions")
    for row in driver.list_executions(job="after"):
        engine.wait_until_final(row.id)
    rows = {row.triggered_by: row for row in driver.list_executions(job="after")}
    assert {key: row.result for key, row in rows.items()} == {**{key: at + 1 for at, key in enumerate(good)}, bad: 101}
    assert rows[good[0]].correlation_id == "c"
    jobs.remove(engine.database, engine.clock, "after", None, "tester")


def test_dependent_submitted_while_its_parent_ends_runs(driver: WorkflowDriver) -> None:
    engine = driver.engine
    children = []
    for number in range(100):
        parent = engine.submit_one("noop", parameters={"number": number})
        children.append(engine.submit_one("noop", parameters={"number": _make_reference(parent)}, depends_on=[parent]))
    assert [engine.wait_until_final(execution).result for execution in children] == list(range(100))


def test_dependents_of_executions_ended_without_a_relay_are_resolved_later(
    own_driver: WorkflowDriver, tmp_path: Path
) -> None:
    engine = own_driver.engine
    relay, _ = engine.start()
    done = tmp_path / "done"
    parent = engine.submit_one("wait_for_file", parameters={"path": str(done)})
    child = engine.submit_one("noop", depends_on=[parent])
    batch, _ = own_driver.submit_workflow(
        first=make_step("noop", depends_on=[parent]), second=make_step("noop", "first")
    )
    wait_until(lambda: engine.is_running(parent))
    relay.terminate(signal.SIGKILL)
    done.touch()
    wait_until(lambda: (parent, 1) in engine.count_ends())
    assert engine.get(child).state is ExecutionState.WAITING
    engine.start_relay()
    assert engine.wait_until_final(child).state is ExecutionState.SUCCEEDED
    assert own_driver.wait_until_completed(batch).counts == {ExecutionState.SUCCEEDED: 2}
    assert set(engine.count_starts().values()) == {1}


def test_repeated_relay_kills_lose_no_step(own_driver: WorkflowDriver) -> None:
    engine = own_driver.engine
    relay, _ = engine.start()
    batches = [
        own_driver.submit_workflow(
            a=make_step("noop"),
            b=make_step("noop", "a"),
            c=make_step("noop", "a"),
            d=make_step("noop", "b", "c"),
        )[0]
        for _ in range(30)
    ]
    for _ in range(4):
        before = len(engine.list_succeeded())
        wait_until(lambda before=before: len(engine.list_succeeded()) > before or len(engine.list_succeeded()) == 120)  # type: ignore[misc]
        relay.terminate(signal.SIGKILL)
        relay = engine.start_relay()
    for batch in batches:
        assert own_driver.wait_until_completed(batch).counts == {ExecutionState.SUCCEEDED: 4}
    assert set(engine.count_starts().values()) == {1}
