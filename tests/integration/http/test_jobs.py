"""Job definitions and tasks over HTTP."""

from typing import Any

import pytest

from jobworker.store import workers
from jobworker.store.workers import WorkerRow
from tests.conftest import NOW
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver

DEFINITION = {"name": "nightly", "task": EXPORT_TASK.name, "defaults": {"format": "json"}, "tags": ["night"]}
CRON = {"kind": "cron", "expression": "0 3 * * *", "zone": "Europe/Berlin"}


def _create_job(api: ApiDriver, **changes: Any) -> Any:
    return api.client.post("/api/v1/jobs", json={**DEFINITION, **changes})


def test_definition_is_created_and_read(any_api: ApiDriver) -> None:
    created = _create_job(any_api, time_limit="PT10M", retry={"max_attempts": 3}, priority=7)
    assert created.status_code == 201
    assert (created.headers["Location"], created.headers["ETag"]) == ("/api/v1/jobs/nightly", '"1"')
    read = any_api.client.get(created.headers["Location"])
    assert (read.json, read.headers["ETag"]) == (created.json, '"1"')
    shown = read.json
    assert (shown["time_limit"], shown["retry"]["max_attempts"], shown["priority"]) == (600, 3, 7)
    assert (shown["owner"], shown["revision"], shown["queue"], shown["enabled"]) == ("api", 1, "default", True)
    assert [parameter["name"] for parameter in shown["parameters"]] == ["user_id", "format", "rows", "options"]


def test_unchanged_definition_returns_304(api: ApiDriver) -> None:
    _create_job(api)
    assert api.client.get("/api/v1/jobs/nightly", headers={"If-None-Match": '"1"'}).status_code == 304
    assert api.client.get("/api/v1/jobs/nightly", headers={"If-None-Match": '"2"'}).status_code == 200


def test_schedule_is_stored_with_its_defaults(api: ApiDriver) -> None:
    created = _create_job(api, defaults={"user_id": "all"}, schedule={"kind": "cron", "expression": "0 3 * * *"})
    assert created.json["schedule"] == {"kind": "cron", "expression": "0 3 * * *", "zone": "UTC"}
    assert api.count_rows("job_schedules") == 1


@pytest.mark.parametrize(
    ("changes", "pointer", "code"),
    [
        ({"name": None}, "/name", "null"),
        ({"name": "no spaces"}, "/name", "not_allowed"),
        ({"name": "x" * 129}, "/name", "not_allowed"),
        ({"task": "tasks.exports.exprot"}, "/task", "task_not_found"),
        ({"queue": "Default"}, "/queue", "not_allowed"),
        ({"priority": 11}, "/priority", "not_allowed"),
        ({"enabled": "yes"}, "/enabled", "wrong_type"),
        ({"enabled": 1}, "/enabled", "wrong_type"),
        ({"unique": [None, None]}, "/unique", "wrong_type"),
        ({"retry": 0}, "/retry", "wrong_type"),
        ({"isolation": []}, "/isolation", "wrong_type"),
        ({"trigger_after": {}}, "/trigger_after", "wrong_type"),
        ({"defaults": {"colour": 1}}, "/defaults/colour", "unknown_parameter"),
        ({"defaults": {"rows": "x"}}, "/defaults/rows", "wrong_type"),
        ({"retry": {"max_attempts": 0}}, "/retry/max_attempts", "not_allowed"),
        ({"retry": {"max_attempts": 1.5}}, "/retry/max_attempts", "wrong_type"),
        ({"retry": {"tries": 1}}, "/retry/tries", "unknown_field"),
        ({"time_limit": 0}, "/time_limit", "not_allowed"),
        ({"time_limit": "P1Y"}, "/time_limit", "wrong_type"),
        ({"time_limit": 10, "soft_time_limit": 10}, "/soft_time_limit", "not_allowed"),
        ({"on_worker_lost": "explode"}, "/on_worker_lost", "not_allowed"),
        ({"tags": ["x" * 65]}, "/tags", "not_allowed"),
        ({"tags": "night"}, "/tags", "wrong_type"),
        ({"tags": [1]}, "/tags/0", "wrong_type"),
        ({"schedule": {"kind": "lunar"}}, "/schedule/kind", "not_allowed"),
        ({"schedule": {"kind": "interval", "every": 0}}, "/schedule/every", "not_allowed"),
        ({"schedule": {"kind": "interval", "every": 1e300}}, "/schedule/every", "not_allowed"),
        ({"schedule": {"kind": "cron", "expression": "often"}}, "/schedule/expression", "bad_cron"),
        ({"schedule": {**CRON, "zone": "Mars/Base"}}, "/schedule/zone", "unknown_zone"),
        ({"schedule": {**CRON, "colour": 1}}, "/schedule/colour", "unknown_field"),
        ({"colour": 1}, "/colour", "unknown_field"),
    ],
)
def test_invalid_definition_returns_422_with_pointer(api: ApiDriver, changes: Any, pointer: str, code: str) -> None:
    response = _create_job(api, **{"defaults": {"user_id": "all"}, **changes})
    assert response.status_code == 422
    assert {(error["pointer"], error["code"]) for error in response.json["errors"]} == {(pointer, code)}
    assert api.client.get("/api/v1/jobs/nightly").status_code == 404


def test_scheduled_job_requires_all_its_parameters(api: ApiDriver) -> None:
    response = _create_job(api, schedule=CRON)
    assert [error["pointer"] for error in response.json["errors"]] == ["/defaults/user_id"]


def test_duplicate_job_name_is_rejected(api: ApiDriver) -> None:
    _create_job(api)
    response = _create_job(api)
    assert (response.status_code, response.json["code"]) == (409, "job_exists")


class TestJobChange:
    """PUT with If-Match."""

    def _put_job(self, api: ApiDriver, match: str | None, **changes: Any) -> Any:
        headers = {} if match is None else {"If-Match": match}
        return api.client.put("/api/v1/jobs/nightly", json={**DEFINITION, **changes}, headers=headers)

    def test_change_creates_a_revision(self, any_api: ApiDriver) -> None:
        _create_job(any_api)
        response = self._put_job(any_api, '"1"', queue="critical")
        assert (response.status_code, response.headers["ETag"], response.json["queue"]) == (200, '"2"', "critical")
        assert any_api.client.get("/api/v1/jobs/nightly").json == response.json

    def test_change_requires_the_current_revision(self, api: ApiDriver) -> None:
        _create_job(api)
        missing = self._put_job(api, None)
        assert (missing.status_code, missing.json["code"]) == (428, "precondition_required")
        for stale in ('""', '"7"', 'W/"1"', '"x"', f'"{"9" * 5000}"'):
            response = self._put_job(api, stale, queue="critical")
            assert (response.status_code, response.json["code"]) == (412, "precondition_failed")
        assert api.client.get("/api/v1/jobs/nightly").headers["ETag"] == '"1"'

    def test_star_matches_any_revision(self, api: ApiDriver) -> None:
        _create_job(api)
        assert self._put_job(api, "*", queue="critical").status_code == 200

    def test_change_of_an_outdated_revision_is_rejected(self, api: ApiDriver) -> None:
        _create_job(api)
        assert self._put_job(api, '"1"', queue="critical").status_code == 200
        assert self._put_job(api, '"1"', queue="background").status_code == 412

    def test_job_cannot_be_renamed(self, api: ApiDriver) -> None:
        _create_job(api)
        assert self._put_job(api, "*", name="other").json["errors"][0]["pointer"] == "/name"
        body = {"task": EXPORT_TASK.name}
        unnamed = api.client.put("/api/v1/jobs/nightly", json=body, headers={"If-Match": "*"})
        assert (unnamed.status_code, unnamed.json["name"], unnamed.json["tags"]) == (200, "nightly", [])

    def test_change_of_unknown_job_returns_404(self, api: ApiDriver) -> None:
        assert self._put_job(api, "*").status_code == 404

    def test_job_declared_in_code_cannot_be_changed(self, api: ApiDriver) -> None:
        body = {"task": EXPORT_TASK.name}
        response = api.client.put("/api/v1/jobs/export", json=body, headers={"If-Match": "*"})
        assert (response.status_code, response.json["code"]) == (409, "job_owned_by_code")

    def test_job_declared_in_code_is_deletable_without_its_workers(self, api: ApiDriver) -> None:
        worker = WorkerRow("w", "host", 1, "prefork", 2, ("default",), (EXPORT_TASK.name,), "v1", NOW, NOW)
        with api.database.write() as connection:
            workers.update_live(connection, [worker], NOW)
        response = api.client.delete("/api/v1/jobs/export", headers={"If-Match": "*"})
        assert (response.status_code, response.json["code"]) == (409, "job_owned_by_code")
        with api.database.write() as connection:
            workers.update_live(connection, [], NOW)
        assert api.client.delete("/api/v1/jobs/export", headers={"If-Match": "*"}).status_code == 204


class TestDelete:
    """DELETE with If-Match."""

    def test_deleted_definition_leaves_its_executions(self, any_api: ApiDriver) -> None:
        _create_job(any_api, defaults={"user_id": "all"})
        accepted = any_api.submit_accepted({}, job="nightly")
        response = any_api.client.delete("/api/v1/jobs/nightly", headers={"If-Match": '"1"'})
        assert (response.status_code, response.data) == (204, b"")
        assert any_api.client.get("/api/v1/jobs/nightly").status_code == 404
        assert any_api.client.get(accepted["links"]["self"]).json["job"] == "nightly"

    def test_delete_requires_the_current_revision(self, api: ApiDriver) -> None:
        _create_job(api)
        assert api.client.delete("/api/v1/jobs/nightly").status_code == 428
        assert api.client.delete("/api/v1/jobs/nightly", headers={"If-Match": '"2"'}).status_code == 412
        assert api.client.delete("/api/v1/jobs/nothing", headers={"If-Match": "*"}).status_code == 404


def test_jobs_are_paged(api: ApiDriver) -> None:
    for number in range(4):
        _create_job(api, name=f"job-{number}")
    first = api.client.get("/api/v1/jobs?limit=3").json
    second = api.client.get(f"/api/v1/jobs?limit=3&cursor={first['next']}").json
    names = [job["name"] for job in (*first["items"], *second["items"])]
    assert (names, second["next"]) == (["export", "job-0", "job-1", "job-2", "job-3"], None)


def test_tasks_are_listed_and_read(any_api: ApiDriver) -> None:
    [listed] = any_api.client.get("/api/v1/tasks").json["items"]
    read = any_api.client.get(f"/api/v1/tasks/{EXPORT_TASK.name}").json
    assert read == listed
    assert read["parameters"][1]["choices"] == ["csv", "json"]
    missing = any_api.client.get("/api/v1/tasks/tasks.exports.exprot")
    assert (missing.status_code, missing.json["code"]) == (404, "task_not_found")
    assert f"did you mean {EXPORT_TASK.name}?" in missing.json["detail"]
