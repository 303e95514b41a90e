"""Dependencies, workflows and batches over HTTP."""

from typing import Any

import pytest

from tests.integration.http.conftest import ApiDriver

UNKNOWN_ID = "01980000-0000-7000-8000-000000000000"
PARAMETERS = {"user_id": "u-17"}


def _make_step(*needs: Any, **fields: Any) -> dict[str, Any]:
    return {"job": "export", "parameters": PARAMETERS, "needs": list(needs), **fields}


def _submit_workflow(api: ApiDriver, status: int = 202, **body: Any) -> Any:
    response = api.client.post("/api/v1/workflows", json=body)
    assert response.status_code == status, response.json
    return response


def test_execution_with_dependency_waits_and_lists_it(any_api: ApiDriver) -> None:
    api = any_api
    parent = api.submit_accepted()["id"]
    child = api.submit_accepted({"parameters": PARAMETERS, "depends_on": [{"execution": parent, "on": "any"}]})
    assert (child["state"], child["waiting_for"]) == ("Waiting", 1)
    [row] = api.client.get(child["links"]["dependencies"]).json["items"]
    assert row == {
        "execution_id": parent, "job": "export", "state": "Queued", "step": None, "on": "any", "otherwise": "skip",
        "outcome": None, "settled_at": None,
    }  # fmt: skip
    [reason] = api.client.get(f"/api/v1/executions/{child['id']}/why").json["reasons"][:1]
    assert (reason["code"], reason["details"]["execution"]) == ("dependency", parent)
    cancelled = api.client.post(child["links"]["cancel"])
    assert (cancelled.status_code, cancelled.json["state"]) == (200, "Cancelled")


@pytest.mark.parametrize(
    ("depends_on", "pointer", "code"),
    [
        ([UNKNOWN_ID], "/depends_on/0", "dependency_not_found"),
        (["x"], "/depends_on/0/execution", "not_allowed"),
        ([UNKNOWN_ID, UNKNOWN_ID], "/depends_on/1", "repeated"),
        ([{"execution": UNKNOWN_ID, "on": "monday"}], "/depends_on/0/on", "not_allowed"),
        ([{"execution": UNKNOWN_ID, "when": 1}], "/depends_on/0/when", "unknown_field"),
        ("x", "/depends_on", "wrong_type"),
        ([UNKNOWN_ID] * 1001, "/depends_on", "wrong_type"),
    ],
)
def test_invalid_dependencies_return_422_with_pointer(api: ApiDriver, depends_on: Any, pointer: str, code: str) -> None:
    response = api.submit({"parameters": PARAMETERS, "depends_on": depends_on})
    assert response.status_code == 422
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(pointer, code)]
    assert api.count_rows("executions") == 0


def test_dependency_on_failed_execution_is_rejected_unless_continued(any_api: ApiDriver) -> None:
    parent = any_api.submit_accepted()["id"]
    any_api.enter_state(parent, 1, "Failed")
    response = any_api.submit({"parameters": PARAMETERS, "depends_on": [parent]})
    assert (response.status_code, response.json["code"]) == (422, "invalid_dependency")
    assert response.json["errors"][0]["code"] == "dependency_failed"
    going_on = {"execution": parent, "otherwise": "continue"}
    assert any_api.submit_accepted({"parameters": PARAMETERS, "depends_on": [going_on]})["state"] == "Queued"


def test_workflow_is_created_and_read(any_api: ApiDriver) -> None:
    api = any_api
    steps = {"second": _make_step("first", priority=7), "first": _make_step(on_failure="fail")}
    response = _submit_workflow(api, name="two", steps=steps, on_complete={"job": "export", "parameters": PARAMETERS})
    workflow = api.client.get(response.headers["Location"])
    assert workflow.json == response.json
    assert (workflow.json["kind"], workflow.json["name"], workflow.json["total"], workflow.json["finished"]) == (
        "workflow", "two", 2, 0,
    )  # fmt: skip
    assert [(step["step"], step["state"], step["needs"]) for step in workflow.json["steps"]] == [
        ("first", "Queued", []),
        ("second", "Waiting", ["first"]),
    ]
    assert workflow.json["on_complete"]["job"] == "export"
    second = api.client.get(f"/api/v1/executions/{workflow.json['steps'][1]['execution_id']}").json
    assert (second["step"], second["priority"], second["correlation_id"]) == ("second", 7, workflow.json["id"])
    [listed] = api.client.get("/api/v1/batches").json["items"]
    assert listed == {**workflow.json, "steps": None}
    members = api.client.get(workflow.json["links"]["executions"]).json["items"]
    assert {member["step"] for member in members} == {"first", "second"}


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"steps": {}}, "/steps", "not_allowed"),
        ({"steps": []}, "/steps", "wrong_type"),
        ({}, "/steps", "missing"),
        ({"steps": {"a": {}}}, "/steps/a/job", "missing"),
        ({"steps": {"a": 7}}, "/steps/a", "wrong_type"),
        ({"steps": {"a": {"job": "export", "need": ["b"]}}}, "/steps/a/need", "unknown_field"),
        ({"steps": {"a": _make_step("b")}}, "/steps/a/needs/0", "unknown_step"),
        ({"steps": {"a/b": _make_step()}}, "/steps/a~1b", "not_allowed"),
        ({"steps": {"a": _make_step("b"), "b": _make_step("a")}}, "/steps", "cycle"),
        ({"steps": {"a": _make_step(delay=-1)}}, "/steps/a/delay", "not_allowed"),
        ({"steps": {"a": _make_step()}, "on_failure": "stop"}, "/on_failure", "not_allowed"),
        ({"steps": {"a": _make_step()}, "on_complete": {"job": "nobody"}}, "/on_complete/job", "job_not_found"),
        ({"steps": {"a": _make_step()}, "name": ""}, "/name", "not_allowed"),
    ],
)
def test_invalid_workflow_returns_422_with_pointer(
    api: ApiDriver, body: dict[str, Any], pointer: str, code: str
) -> None:
    response = _submit_workflow(api, 422, **body)
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(pointer, code)]
    assert api.count_rows("executions") == api.count_rows("batches") == 0


def test_workflow_with_idempotency_key_is_created_once(api: ApiDriver) -> None:
    body = {"steps": {"a": _make_step(), "b": _make_step("a")}}
    first, second = (
        api.client.post("/api/v1/workflows", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)
    )
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json == second.json
    assert api.count_rows("executions") == 2
    refused = api.client.post(
        "/api/v1/workflows", json={"steps": {"a": _make_step()}}, headers={"Idempotency-Key": "k"}
    )
    assert refused.json["code"] == "idempotency_key_reused"


def test_batch_is_read_and_cancelled(any_api: ApiDriver) -> None:
    items = [{"job": "export", "parameters": PARAMETERS} for _ in range(3)]
    accepted = any_api.client.post("/api/v1/executions/batch", json={"name": "three", "executions": items}).json
    any_api.enter_state(accepted["ids"][0], 1, "Succeeded")
    batch = any_api.client.get(accepted["links"]["batch"]).json
    assert (batch["kind"], batch["name"], batch["steps"]) == ("batch", "three", None)
    assert (batch["counts"]["Succeeded"], batch["counts"]["Queued"]) == (1, 2)
    assert batch["progress"] == pytest.approx(1 / 3)
    first, second = (any_api.client.post(batch["links"]["cancel"]) for _ in range(2))
    assert (first.status_code, first.json) == (202, second.json)
    assert first.json["cancel_requested_by"] == "api"


def test_cancel_of_completed_or_unknown_batch_is_rejected(api: ApiDriver) -> None:
    body = {"executions": [{"job": "export", "parameters": PARAMETERS}]}
    batch = api.client.post("/api/v1/executions/batch", json=body).json["batch_id"]
    with api.database.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET completed_at = created_at")
    over = api.client.post(f"/api/v1/batches/{batch}/cancel")
    assert (over.status_code, over.json["code"]) == (409, "not_cancellable")
    for wrong in (UNKNOWN_ID, "x"):
        assert api.client.get(f"/api/v1/batches/{wrong}").json["code"] == "batch_not_found"
        assert api.client.post(f"/api/v1/batches/{wrong}/cancel").status_code == 404


def test_definition_triggers_are_stored_and_validated(api: ApiDriver) -> None:
    body = {
        "name": "after",
        "task": "tasks.exports.export",
        "defaults": PARAMETERS,
        "trigger_after": [{"job": "export"}],
    }
    created = api.client.post("/api/v1/jobs", json=body)
    assert created.status_code == 201
    assert created.json["trigger_after"] == [{"job": "export", "on": "success", "parameters": {}}]
    circle = {**body, "name": None, "trigger_after": [{"job": "after"}]}
    circle.pop("name")
    response = api.client.put("/api/v1/jobs/after", json=circle, headers={"If-Match": "*"})
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [("/trigger_after", "cycle")]
    assert "after -> after" in response.json["detail"]
