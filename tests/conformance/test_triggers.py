"""Triggers: jobs that start after executions of other jobs."""

from typing import Any

import pytest

from jobworker.domain.errors import InvalidInput
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.services.jobs import jobs, task_catalog
from jobworker.store.database.database import Database
from jobworker.store.workflows import trigger_rows
from tests.conformance.execution_driver import FAILED, SUCCEEDED, ExecutionDriver


@pytest.fixture
def driver(database: Database) -> ExecutionDriver:
    return ExecutionDriver(database)


def _make_trigger(*items: dict[str, Any]) -> dict[str, Any]:
    return {"trigger_after": list(items)}


def test_parent_end_triggers_job_once(driver: ExecutionDriver) -> None:
    item = {"job": "extract", "on": "success", "parameters": {"rows": {"$from": "extract", "path": "/rows"}, "n": 2}}
    driver.define_job("load", defaults={"n": 1, "m": 1}, policies=_make_trigger(item))
    parent = driver.submit("extract", correlation_id="order-1")
    driver.report_end(parent, result={"rows": [1]})
    driver.report_end(parent, result={"rows": [1]})

    [row] = driver.list_executions("load")
    assert (row.state, row.parameters) == (ExecutionState.QUEUED, {"rows": [1], "n": 2, "m": 1})
    assert (row.triggered_by, row.correlation_id, row.created_by) == (parent, "order-1", "trigger:extract")
    assert driver.list_states(row.id) == ["Waiting", "Queued"]


def test_trigger_fires_only_on_matching_ends(driver: ExecutionDriver) -> None:
    driver.define_job(
        "load", policies=_make_trigger({"job": "extract", "on": "failure"}, {"job": "report", "on": "any"})
    )
    driver.report_end(driver.submit("extract"), SUCCEEDED)
    assert driver.list_executions("load") == []
    driver.report_end(driver.submit("extract"), FAILED)
    assert len(driver.list_executions("load")) == 1
    waiting = driver.submit("report", delay=60)
    driver.cancel(waiting)
    assert [row.triggered_by for row in driver.list_executions("load")][1:] == [waiting]


def test_triggers_form_a_chain(driver: ExecutionDriver) -> None:
    driver.define_job(
        "load", policies=_make_trigger({"job": "extract", "parameters": {"x": {"$from": "extract", "path": "/no"}}})
    )
    driver.define_job("report", policies=_make_trigger({"job": "load", "on": "failure"}))
    driver.report_end(driver.submit("extract"), result={})
    [load], [report] = driver.list_executions("load"), driver.list_executions("report")
    assert (load.state, load.reason) == (ExecutionState.FAILED, "the result of extract has nothing at /no")
    assert (report.state, report.triggered_by) == (ExecutionState.QUEUED, load.id)


def test_disabled_changed_or_removed_trigger_starts_nothing(driver: ExecutionDriver) -> None:
    policies = _make_trigger({"job": "extract"})
    driver.define_job("load", policies=policies)
    driver.define_job("load", policies=policies, enabled=False)
    driver.define_job("report", policies=policies)
    driver.define_job("report")
    driver.report_end(driver.submit("extract"))
    assert driver.list_executions("load") == driver.list_executions("report") == []
    driver.define_job("load", policies=policies)
    jobs.remove(driver.database, driver.clock, "load", None, "ann")
    with driver.database.read() as connection:
        assert trigger_rows.list_after(connection, ["extract"]) == []


def _create_job(driver: ExecutionDriver, name: str, *items: dict[str, Any]) -> None:
    jobs.create(driver.database, driver.clock, JobDefinition(name, "tasks.any", policies=_make_trigger(*items)), "ann")


@pytest.mark.parametrize(
    ("items", "place", "code", "text"),
    [
        ([{"job": "nobody"}], "/trigger_after/0/job", "job_not_found", "there is no job 'nobody'"),
        ([{"job": "new"}], "/trigger_after", "cycle", "new -> new"),
        ([{"job": "c"}], "/trigger_after", "cycle", " -> "),
        ([{}], "/trigger_after/0/job", "missing", "job is required"),
        ([{"job": "a", "on": "monday"}], "/trigger_after/0/on", "not_allowed", "on must be one of"),
        ([{"job": "a"}, {"job": "a"}], "/trigger_after/1", "repeated", "more than once"),
        ([{"job": "a", "parameters": {"x": {"$from": "b"}}}], "/trigger_after/0/parameters/x/$from", "unknown_source",
         "not a source here; the sources are: a"),
    ],
)  # fmt: skip
def test_invalid_triggers_are_rejected(driver: ExecutionDriver, items: Any, place: str, code: str, text: str) -> None:
    for name in ("new", "a", "b", "c"):
        driver.define_job(name, policies=_make_trigger())
    driver.define_job("b", policies=_make_trigger({"job": "new"}))
    driver.define_job("c", policies=_make_trigger({"job": "b"}))
    definition = JobDefinition("new", "tasks.any", policies=_make_trigger(*items))
    with pytest.raises(InvalidInput) as refused:
        jobs.change(driver.database, driver.clock, definition, None, "ann")
    [problem] = [problem for problem in refused.value.errors if problem.code == code]
    assert problem.pointer == place
    assert text in problem.message


def test_trigger_without_required_parameters_is_rejected(driver: ExecutionDriver) -> None:
    definition = JobDefinition("new", "tasks.strict", policies=_make_trigger({"job": "extract"}))
    with pytest.raises(InvalidInput) as refused:
        jobs.create(driver.database, driver.clock, definition, "ann")
    assert [problem.pointer for problem in refused.value.errors] == ["/trigger_after/0/parameters/rows"]


def test_trigger_cycle_declared_in_code_is_dropped(driver: ExecutionDriver) -> None:
    def offered(name: str, after: str) -> dict[str, Any]:
        policies = {"retry": {}, "trigger_after": [{"job": after, "on": "success", "parameters": {}}]}
        options = {"queue": "default", "priority": 5, "on_worker_lost": "retry", "policies": policies}
        return {"name": name, "description": "", "parameters": [], "options": options}

    task_catalog.register_tasks(driver.database, driver.clock, [offered("one", "two"), offered("two", "one")], "v1")
    assert [item.job for item in jobs.get(driver.database, "one").row.definition.triggers] == ["two"]
    assert jobs.get(driver.database, "two").row.definition.triggers == ()
