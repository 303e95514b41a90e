"""Job definitions and tasks over HTTP."""

from typing import Any

import pytest

from jobworker.store import workers
from jobworker.store.workers import WorkerRow
from tests.conftest import NOW
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver

DEFINITION = {"name": "nightly", "task": EXPORT_TASK.name, "defaults": {"format": "json"}, "tags": ["night"]}
CRON = {"kind": "cron", "expression": "0 3 * * *", "zone": "Europe/Berlin"}


def _create_job(world: ApiDriver, **changes: Any) -> Any:
    return world.client.post("/api/v1/jobs", json={**DEFINITION, **changes})


def test_a_definition_is_created_and_read(any_world: ApiDriver) -> None:
    made = _create_job(any_world, time_limit="PT10M", retry={"max_attempts": 3}, priority=7)
    assert made.status_code == 201
    assert (made.headers["Location"], made.headers["ETag"]) == ("/api/v1/jobs/nightly", '"1"')
    read = any_world.client.get(made.headers["Location"])
    assert (read.json, read.headers["ETag"]) == (made.json, '"1"')
    shown = read.json
    assert (shown["time_limit"], shown["retry"]["max_attempts"], shown["priority"]) == (600, 3, 7)
    assert (shown["owner"], shown["revision"], shown["queue"], shown["enabled"]) == ("api", 1, "default", True)
    assert [each["name"] for each in shown["parameters"]] == ["user_id", "format", "rows", "options"]


def test_an_unchanged_definition_is_not_sent_again(world: ApiDriver) -> None:
    _create_job(world)
    assert world.client.get("/api/v1/jobs/nightly", headers={"If-None-Match": '"1"'}).status_code == 304
    assert world.client.get("/api/v1/jobs/nightly", headers={"If-None-Match": '"2"'}).status_code == 200


def test_a_schedule_is_kept_with_its_defaults(world: ApiDriver) -> None:
    made = _create_job(world, defaults={"user_id": "all"}, schedule={"kind": "cron", "expression": "0 3 * * *"})
    assert made.json["schedule"] == {"kind": "cron", "expression": "0 3 * * *", "zone": "UTC"}
    assert world.count_rows("job_schedules") == 1


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
def test_what_is_wrong_is_refused_with_its_place(world: ApiDriver, changes: Any, pointer: str, code: str) -> None:
    response = _create_job(world, **{"defaults": {"user_id": "all"}, **changes})
    assert response.status_code == 422
    assert {(each["pointer"], each["code"]) for each in response.json["errors"]} == {(pointer, code)}
    assert world.client.get("/api/v1/jobs/nightly").status_code == 404


def test_a_scheduled_job_must_have_all_its_parameters(world: ApiDriver) -> None:
    response = _create_job(world, schedule=CRON)
    assert [each["pointer"] for each in response.json["errors"]] == ["/defaults/user_id"]


def test_a_name_is_used_once(world: ApiDriver) -> None:
    _create_job(world)
    response = _create_job(world)
    assert (response.status_code, response.json["code"]) == (409, "job_exists")


class TestChange:
    """PUT with If-Match."""

    def _put_job(self, world: ApiDriver, match: str | None, **changes: Any) -> Any:
        headers = {} if match is None else {"If-Match": match}
        return world.client.put("/api/v1/jobs/nightly", json={**DEFINITION, **changes}, headers=headers)

    def test_a_change_makes_a_revision(self, any_world: ApiDriver) -> None:
        _create_job(any_world)
        response = self._put_job(any_world, '"1"', queue="critical")
        assert (response.status_code, response.headers["ETag"], response.json["queue"]) == (200, '"2"', "critical")
        assert any_world.client.get("/api/v1/jobs/nightly").json == response.json

    def test_the_revision_before_is_needed(self, world: ApiDriver) -> None:
        _create_job(world)
        missing = self._put_job(world, None)
        assert (missing.status_code, missing.json["code"]) == (428, "precondition_required")
        for stale in ('""', '"7"', 'W/"1"', '"x"', f'"{"9" * 5000}"'):
            response = self._put_job(world, stale, queue="critical")
            assert (response.status_code, response.json["code"]) == (412, "precondition_failed")
        assert world.client.get("/api/v1/jobs/nightly").headers["ETag"] == '"1"'

    def test_a_star_matches_any_revision(self, world: ApiDriver) -> None:
        _create_job(world)
        assert self._put_job(world, "*", queue="critical").status_code == 200

    def test_one_of_two_changes_is_lost_to_nobody(self, world: ApiDriver) -> None:
        _create_job(world)
        assert self._put_job(world, '"1"', queue="critical").status_code == 200
        assert self._put_job(world, '"1"', queue="background").status_code == 412

    def test_a_job_cannot_be_renamed(self, world: ApiDriver) -> None:
        _create_job(world)
        assert self._put_job(world, "*", name="other").json["errors"][0]["pointer"] == "/name"
        body = {"task": EXPORT_TASK.name}
        unnamed = world.client.put("/api/v1/jobs/nightly", json=body, headers={"If-Match": "*"})
        assert (unnamed.status_code, unnamed.json["name"], unnamed.json["tags"]) == (200, "nightly", [])

    def test_what_does_not_exist_is_not_made(self, world: ApiDriver) -> None:
        assert self._put_job(world, "*").status_code == 404

    def test_code_is_changed_in_code(self, world: ApiDriver) -> None:
        body = {"task": EXPORT_TASK.name}
        response = world.client.put("/api/v1/jobs/export", json=body, headers={"If-Match": "*"})
        assert (response.status_code, response.json["code"]) == (409, "job_owned_by_code")

    def test_code_is_deleted_once_no_worker_has_it(self, world: ApiDriver) -> None:
        worker = WorkerRow("w", "host", 1, "prefork", 2, ("default",), (EXPORT_TASK.name,), "v1", NOW, NOW)
        with world.database.write() as connection:
            workers.update_live(connection, [worker], NOW)
        response = world.client.delete("/api/v1/jobs/export", headers={"If-Match": "*"})
        assert (response.status_code, response.json["code"]) == (409, "job_owned_by_code")
        with world.database.write() as connection:
            workers.update_live(connection, [], NOW)
        assert world.client.delete("/api/v1/jobs/export", headers={"If-Match": "*"}).status_code == 204


class TestDelete:
    """DELETE with If-Match."""

    def test_a_definition_goes_and_its_executions_stay(self, any_world: ApiDriver) -> None:
        _create_job(any_world, defaults={"user_id": "all"})
        accepted = any_world.submit_accepted({}, job="nightly")
        response = any_world.client.delete("/api/v1/jobs/nightly", headers={"If-Match": '"1"'})
        assert (response.status_code, response.data) == (204, b"")
        assert any_world.client.get("/api/v1/jobs/nightly").status_code == 404
        assert any_world.client.get(accepted["links"]["self"]).json["job"] == "nightly"

    def test_the_revision_is_needed(self, world: ApiDriver) -> None:
        _create_job(world)
        assert world.client.delete("/api/v1/jobs/nightly").status_code == 428
        assert world.client.delete("/api/v1/jobs/nightly", headers={"If-Match": '"2"'}).status_code == 412
        assert world.client.delete("/api/v1/jobs/nothing", headers={"If-Match": "*"}).status_code == 404


def test_lists_are_paged(world: ApiDriver) -> None:
    for number in range(4):
        _create_job(world, name=f"job-{number}")
    first = world.client.get("/api/v1/jobs?limit=3").json
    second = world.client.get(f"/api/v1/jobs?limit=3&cursor={first['next']}").json
    names = [each["name"] for each in (*first["items"], *second["items"])]
    assert (names, second["next"]) == (["export", "job-0", "job-1", "job-2", "job-3"], None)


def test_tasks_are_listed_and_read(any_world: ApiDriver) -> None:
    [listed] = any_world.client.get("/api/v1/tasks").json["items"]
    read = any_world.client.get(f"/api/v1/tasks/{EXPORT_TASK.name}").json
    assert read == listed
    assert read["parameters"][1]["choices"] == ["csv", "json"]
    missing = any_world.client.get("/api/v1/tasks/tasks.exports.exprot")
    assert (missing.status_code, missing.json["code"]) == (404, "task_not_found")
    assert f"did you mean {EXPORT_TASK.name}?" in missing.json["detail"]
