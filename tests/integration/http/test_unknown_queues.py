"""A queue must exist before a request names it, whichever request that is."""

from typing import Any

import pytest

from jobworker.store.tables import core
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver

UNKNOWN_QUEUE = "critcal"
PARAMETERS_FIELD: dict[str, Any] = {"parameters": {"user_id": "u"}}
ITEM: dict[str, Any] = {"job": "export", **PARAMETERS_FIELD}
MISSPELLED_ITEM = {**ITEM, "queue": UNKNOWN_QUEUE}
JOB = {"name": "weekly", "task": EXPORT_TASK.name, "defaults": {"user_id": "u"}}
SCHEDULE = {"name": "nightly", "job": "export", "rule": {"kind": "daily", "time": "02:00"}, **PARAMETERS_FIELD}


def _get_problem(response: Any) -> Any:
    """Return the only problem of a request that was rejected because of a queue."""
    assert response.status_code == 422, response.json
    [problem] = response.json["errors"]
    assert problem["code"] == "unknown_queue"
    return problem


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/jobs/export/executions", {**PARAMETERS_FIELD, "queue": UNKNOWN_QUEUE}, "/queue"),
        ("/executions/batch", {"executions": [ITEM, MISSPELLED_ITEM]}, "/executions/1/queue"),
        ("/executions/batch", {"executions": [ITEM], "on_complete": MISSPELLED_ITEM}, "/on_complete/queue"),
        ("/workflows", {"steps": {"a": ITEM, "b": MISSPELLED_ITEM}}, "/steps/b/queue"),
        ("/workflows", {"steps": {"a": ITEM}, "on_complete": MISSPELLED_ITEM}, "/on_complete/queue"),
        ("/jobs", {**JOB, "queue": UNKNOWN_QUEUE}, "/queue"),
        ("/schedules", {**SCHEDULE, "queue": UNKNOWN_QUEUE}, "/queue"),
        ("/schedules/preview", {**SCHEDULE, "queue": UNKNOWN_QUEUE}, "/queue"),
    ],
)
def test_unknown_queue_is_rejected_in_every_request(
    any_api: ApiDriver, path: str, body: dict[str, Any], place: str
) -> None:
    problem = _get_problem(any_api.client.post(f"/api/v1{path}", json=body))
    assert problem["pointer"] == place
    assert problem["message"] == (
        "there is no queue 'critcal'; did you mean critical? There are background, critical, default. "
        "PUT /api/v1/queues/critcal creates it"
    )
    assert (any_api.count_rows("executions"), any_api.count_rows("queues")) == (0, 0)


@pytest.mark.parametrize(("path", "body"), [("jobs", JOB), ("schedules", SCHEDULE)])
def test_change_to_unknown_queue_is_rejected(any_api: ApiDriver, path: str, body: dict[str, Any]) -> None:
    assert any_api.client.post(f"/api/v1/{path}", json=body).status_code == 201
    changed_body = {**body, "queue": UNKNOWN_QUEUE}
    refused = any_api.client.put(f"/api/v1/{path}/{body['name']}", json=changed_body, headers={"If-Match": "*"})
    assert _get_problem(refused)["pointer"] == "/queue"


def test_batch_with_10000_unknown_queues_is_rejected_and_creates_none(any_api: ApiDriver) -> None:
    items = [{**ITEM, "queue": f"invented-{number}"} for number in range(10_000)]
    refused = any_api.client.post("/api/v1/executions/batch", json={"executions": items})
    assert refused.status_code == 422
    assert {error["code"] for error in refused.json["errors"]} == {"unknown_queue"}
    assert (any_api.count_rows("executions"), any_api.count_rows("queues")) == (0, 0)


def test_error_lists_ten_queues_and_the_path_to_the_others(api: ApiDriver) -> None:
    for number in range(20):
        assert api.client.put(f"/api/v1/queues/mail-{number:02}").status_code == 201
    message = _get_problem(api.submit({**PARAMETERS_FIELD, "queue": "mail-1"}))["message"]
    assert "did you mean mail-" in message
    assert "mail-06 and more (GET /api/v1/queues lists all)" in message
    assert "mail-07" not in message.partition("There are")[2]


@pytest.mark.parametrize("queue", ["Mail", "a b", ""])
def test_invalid_queue_name_has_its_own_error(any_api: ApiDriver, queue: str) -> None:
    [problem] = any_api.submit({**PARAMETERS_FIELD, "queue": queue}).json["errors"]
    assert problem["pointer"] == "/queue"
    assert problem["code"] != "unknown_queue"


def test_created_queue_is_accepted_in_every_request(any_api: ApiDriver) -> None:
    assert any_api.client.put("/api/v1/queues/mail").status_code == 201
    assert any_api.submit_accepted({**PARAMETERS_FIELD, "queue": "mail"})["queue"] == "mail"
    assert any_api.client.post("/api/v1/jobs", json={**JOB, "queue": "mail"}).status_code == 201
    assert any_api.client.post("/api/v1/schedules", json={**SCHEDULE, "queue": "mail"}).status_code == 201


def test_rerun_keeps_its_queue_only_while_the_queue_exists(any_api: ApiDriver) -> None:
    any_api.client.put("/api/v1/queues/mail")
    ended = any_api.submit_accepted({**PARAMETERS_FIELD, "queue": "mail"})["id"]
    any_api.enter_state(ended, 1, "Failed", dead_letter="open")
    again = f"/api/v1/executions/{ended}"
    assert any_api.client.post(f"{again}/rerun").json["queue"] == "mail"
    with any_api.database.write() as connection:
        connection.execute(core.queues.delete())
    assert _get_problem(any_api.client.post(f"{again}/rerun"))["pointer"] == "/queue"
    with any_api.database.write() as connection:
        connection.execute(core.executions.update().where(core.executions.c.id == ended).values(dead_letter="open"))
    done = any_api.client.post("/api/v1/dead-letters/redrive", json={"ids": [ended]}).json
    assert (done["done"], [problem["code"] for problem in done["problems"]]) == (0, ["unknown_queue"])
