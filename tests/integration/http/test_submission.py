"""Submissions: accepted requests, rejected requests, and the errors of the latter."""

import datetime as dt
from typing import Any

import pytest

from jobworker.domain.json.json_values import MAX_DEPTH
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver

ONE_HOUR_LATER = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).replace(microsecond=0)
IDEMPOTENCY_HEADER = {"Idempotency-Key": "order-1"}


def _list_codes(response: Any) -> set[tuple[str, str]]:
    return {(error["pointer"], error["code"]) for error in response.json["errors"]}


def test_submission_is_committed(any_api: ApiDriver) -> None:
    response = any_api.submit({"parameters": {"user_id": "ü"}, "priority": 9, "correlation_id": "order-1"})
    assert response.status_code == 202
    assert response.headers["Location"] == f"/api/v1/executions/{response.json['id']}"
    shown = any_api.client.get(response.headers["Location"]).json
    assert {**shown, "reason": None} == response.json
    assert (shown["state"], shown["attempt"], shown["priority"], shown["queue"]) == ("Queued", 0, 9, "default")
    assert (shown["parameters"], shown["correlation_id"], shown["created_by"]) == ({"user_id": "ü"}, "order-1", "api")
    assert (shown["job_revision"], shown["task"]) == (1, EXPORT_TASK.name)


def test_omitted_fields_come_from_the_definition(api: ApiDriver) -> None:
    api.create_queue("slow")
    definition = {
        "name": "weekly",
        "task": EXPORT_TASK.name,
        "defaults": {"user_id": "all", "rows": 5},
        "queue": "slow",
    }
    assert api.client.post("/api/v1/jobs", json={**definition, "priority": 1}).status_code == 201
    shown = api.submit_accepted({"parameters": {"rows": 7}}, job="weekly")
    assert (shown["parameters"], shown["queue"], shown["priority"]) == ({"user_id": "all", "rows": 7}, "slow", 1)
    assert shown["correlation_id"] == shown["id"]


def test_submission_with_due_at_is_scheduled(api: ApiDriver) -> None:
    shown = api.submit_accepted({"parameters": {"user_id": "u"}, "due_at": ONE_HOUR_LATER.isoformat()})
    assert shown["state"] == "Scheduled"
    assert dt.datetime.fromisoformat(shown["due_at"]) == ONE_HOUR_LATER
    zoned = api.submit_accepted(
        {
            "parameters": {"user_id": "u"},
            "due_at": ONE_HOUR_LATER.astimezone(dt.timezone(dt.timedelta(hours=5))).isoformat(),
        }
    )
    assert zoned["due_at"] == shown["due_at"]


@pytest.mark.parametrize(
    ("delay", "seconds"), [(90, 90), (0.5, 0.5), ("PT1M30S", 90), ("P1DT1H", 90000), ("P1W", 604800)]
)
def test_delay_accepts_seconds_and_iso_8601(api: ApiDriver, delay: Any, seconds: float) -> None:
    shown = api.submit_accepted({"parameters": {"user_id": "u"}, "delay": delay})
    created, due = (dt.datetime.fromisoformat(shown[name]) for name in ("created_at", "due_at"))
    assert due - created == dt.timedelta(seconds=seconds)
    assert shown["state"] == "Scheduled"


def test_zero_delay_and_recent_past_mean_now(api: ApiDriver) -> None:
    just = (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=5)).isoformat()
    for timing in ({"delay": 0}, {"due_at": just}, {"due_at": None, "delay": None}):
        shown = api.submit_accepted({"parameters": {"user_id": "u"}, **timing})
        assert (shown["state"], shown["due_at"]) == ("Queued", shown["created_at"])


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"parameters": {}}, "/parameters/user_id", "missing_parameter"),
        ({"parameters": {"user_id": "u", "colour": 1}}, "/parameters/colour", "unknown_parameter"),
        ({"parameters": {"user_id": "u", "a/b~c": 1}}, "/parameters/a~1b~0c", "unknown_parameter"),
        ({"parameters": {"user_id": 17}}, "/parameters/user_id", "wrong_type"),
        ({"parameters": {"user_id": None}}, "/parameters/user_id", "wrong_type"),
        ({"parameters": {"user_id": "u", "rows": "5"}}, "/parameters/rows", "wrong_type"),
        ({"parameters": {"user_id": "u", "rows": True}}, "/parameters/rows", "wrong_type"),
        ({"parameters": {"user_id": "u", "format": "xml"}}, "/parameters/format", "not_allowed"),
        ({"parameters": {"user_id": "u" * 70_000}}, "/parameters", "too_large"),
        ({"parameters": []}, "/parameters", "wrong_type"),
        ({"parameters": None}, "/parameters", "null"),
        ({"due_at": "2026-01-01T00:00:00"}, "/due_at", "naive_time"),
        ({"due_at": "2020-01-01T00:00:00Z"}, "/due_at", "past_time"),
        ({"due_at": "9998-01-01T00:00:00Z"}, "/due_at", "too_far"),
        ({"due_at": "9999-12-31T23:59:59-12:00"}, "/due_at", "wrong_type"),
        ({"due_at": "tomorrow"}, "/due_at", "wrong_type"),
        ({"due_at": 1770000000}, "/due_at", "wrong_type"),
        ({"due_at": "2026-13-01T00:00:00Z"}, "/due_at", "wrong_type"),
        ({"delay": -1}, "/delay", "not_allowed"),
        ({"delay": 1e300}, "/delay", "too_far"),
        ({"delay": "P1M"}, "/delay", "wrong_type"),
        ({"delay": "soon"}, "/delay", "wrong_type"),
        ({"delay": True}, "/delay", "wrong_type"),
        ({"delay": 5, "due_at": ONE_HOUR_LATER.isoformat()}, "/delay", "ambiguous"),
        ({"priority": 10}, "/priority", "not_allowed"),
        ({"priority": -1}, "/priority", "not_allowed"),
        ({"priority": "5"}, "/priority", "wrong_type"),
        ({"priority": 5.0}, "/priority", "wrong_type"),
        ({"queue": "No Spaces"}, "/queue", "not_allowed"),
        ({"queue": ""}, "/queue", "not_allowed"),
        ({"correlation_id": "x" * 129}, "/correlation_id", "not_allowed"),
        ({"correlation_id": "a\nb"}, "/correlation_id", "not_allowed"),
        ({"prio": 5}, "/prio", "unknown_field"),
        ([], "", "wrong_type"),
        ("text", "", "wrong_type"),
    ],
)
def test_invalid_submission_returns_422_with_pointer(api: ApiDriver, body: Any, pointer: str, code: str) -> None:
    if isinstance(body, dict) and "parameters" not in body:
        body = {"parameters": {"user_id": "u"}, **body}
    response = api.client.post("/api/v1/jobs/export/executions", json=body)
    assert response.status_code == 422
    assert _list_codes(response) == {(pointer, code)}
    assert api.count_rows("executions") == 0


def test_job_without_required_parameters_accepts_an_empty_request(api: ApiDriver) -> None:
    api.client.post("/api/v1/jobs", json={"name": "all", "task": EXPORT_TASK.name, "defaults": {"user_id": "all"}})
    assert api.client.post("/api/v1/jobs/all/executions").status_code == 202


def test_invalid_submission_returns_all_problems_at_once(api: ApiDriver) -> None:
    response = api.submit({"parameters": {"format": "xml", "colour": 1}})
    assert _list_codes(response) == {
        ("/parameters/user_id", "missing_parameter"),
        ("/parameters/format", "not_allowed"),
        ("/parameters/colour", "unknown_parameter"),
    }
    assert response.json["code"] == "invalid_parameters"
    assert "it accepts user_id, format, rows, options" in response.json["detail"]


def test_unknown_job_returns_404_with_suggestions(api: ApiDriver) -> None:
    response = api.submit(job="exprot")
    assert (response.status_code, response.json["code"]) == (404, "job_not_found")
    assert "did you mean export?" in response.json["detail"]
    assert "GET /api/v1/jobs" in response.json["detail"]


@pytest.mark.parametrize("name", ["a%00b", "%F0%9F%98%80", "a%2Fb", "x" * 2000])
def test_unusual_job_names_return_404(any_api: ApiDriver, name: str) -> None:
    response = any_api.client.post(f"/api/v1/jobs/{name}/executions", json={})
    assert response.status_code == 404


def test_unknown_job_error_without_jobs_explains_their_origin(api: ApiDriver) -> None:
    with api.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM job_definitions")
    assert "workers announce theirs when they start" in api.submit().json["detail"]


def test_disabled_job_rejects_submissions(api: ApiDriver) -> None:
    api.client.post("/api/v1/jobs", json={"name": "off", "task": EXPORT_TASK.name, "enabled": False})
    response = api.submit(job="off")
    assert (response.status_code, response.json["code"]) == (409, "job_disabled")


def test_job_without_task_rejects_submissions(api: ApiDriver) -> None:
    with api.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM tasks")
    response = api.submit()
    assert (response.status_code, response.json["code"]) == (404, "task_not_found")


class TestIdempotency:
    """Header Idempotency-Key."""

    def test_repeated_request_gets_the_first_response(self, any_api: ApiDriver) -> None:
        first = any_api.submit(headers=IDEMPOTENCY_HEADER)
        second = any_api.submit(headers=IDEMPOTENCY_HEADER)
        assert (first.status_code, second.status_code) == (202, 202)
        assert first.json["id"] == second.json["id"]
        assert any_api.count_rows("executions") == 1

    def test_different_request_with_used_key_is_rejected(self, any_api: ApiDriver) -> None:
        any_api.submit(headers=IDEMPOTENCY_HEADER)
        for body in ({"parameters": {"user_id": "other"}}, {"parameters": {"user_id": "u-17"}, "priority": 1}):
            response = any_api.submit(body, headers=IDEMPOTENCY_HEADER)
            assert (response.status_code, response.json["code"]) == (422, "idempotency_key_reused")
        assert any_api.count_rows("executions") == 1

    def test_field_order_does_not_change_the_fingerprint(self, api: ApiDriver) -> None:
        first = api.submit({"parameters": {"user_id": "u", "rows": 1}, "priority": 1}, headers=IDEMPOTENCY_HEADER)
        second = api.submit({"priority": 1, "parameters": {"rows": 1, "user_id": "u"}}, headers=IDEMPOTENCY_HEADER)
        assert first.json["id"] == second.json["id"]

    def test_replay_works_after_the_job_was_deleted(self, api: ApiDriver) -> None:
        first = api.submit(headers=IDEMPOTENCY_HEADER)
        with api.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM job_definitions")
        assert api.submit(headers=IDEMPOTENCY_HEADER).json["id"] == first.json["id"]

    def test_rejected_request_does_not_use_the_key(self, api: ApiDriver) -> None:
        assert api.submit({"parameters": {}}, headers=IDEMPOTENCY_HEADER).status_code == 422
        assert api.submit(headers=IDEMPOTENCY_HEADER).status_code == 202

    def test_batch_and_single_submission_do_not_share_a_key(self, api: ApiDriver) -> None:
        api.submit(headers=IDEMPOTENCY_HEADER)
        item = {"job": "export", "parameters": {"user_id": "u-17"}}
        response = api.client.post("/api/v1/executions/batch", json={"executions": [item]}, headers=IDEMPOTENCY_HEADER)
        assert response.json["code"] == "idempotency_key_reused"

    @pytest.mark.parametrize("key", ["", "x" * 256])
    def test_key_of_invalid_length_is_rejected(self, api: ApiDriver, key: str) -> None:
        response = api.submit(headers={"Idempotency-Key": key})
        assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "Idempotency-Key")


class TestBatch:
    """Submission of many executions at once."""

    def _make_items(self, count: int) -> list[dict[str, Any]]:
        return [{"job": "export", "parameters": {"user_id": f"u{number}"}} for number in range(count)]

    def test_batch_is_accepted_in_its_order(self, any_api: ApiDriver) -> None:
        any_api.create_queue("slow")
        items = [*self._make_items(20), {"job": "export", "parameters": {"user_id": "z"}, "delay": 60, "queue": "slow"}]
        response = any_api.client.post("/api/v1/executions/batch", json={"executions": items})
        assert response.status_code == 202
        assert response.json["count"] == 21
        members = any_api.client.get(f"/api/v1/executions?batch_id={response.json['batch_id']}").json["items"]
        assert [row["id"] for row in members] == response.json["ids"][::-1]
        assert [row["parameters"]["user_id"] for row in reversed(members)] == [f"u{n}" for n in range(20)] + ["z"]
        assert (members[0]["state"], members[0]["queue"]) == ("Scheduled", "slow")

    def test_batch_accepts_10000_items(self, api: ApiDriver) -> None:
        response = api.client.post("/api/v1/executions/batch", json={"executions": self._make_items(10_000)})
        assert (response.status_code, response.json["count"]) == (202, 10_000)
        assert api.count_rows("executions") == 10_000

    @pytest.mark.parametrize("count", [0, 10_001])
    def test_batch_rejects_zero_and_more_than_10000_items(self, api: ApiDriver, count: int) -> None:
        response = api.client.post("/api/v1/executions/batch", json={"executions": self._make_items(count)})
        assert _list_codes(response) == {("/executions", "not_allowed")}

    def test_batch_with_invalid_items_is_rejected_with_pointers(self, api: ApiDriver) -> None:
        items = self._make_items(30)
        items[17]["parameters"] = {"user_id": "u", "format": "xml"}
        items[19]["job"] = "nothing"
        items[23]["delay"] = -1
        response = api.client.post("/api/v1/executions/batch", json={"executions": items})
        assert response.status_code == 422
        assert _list_codes(response) == {
            ("/executions/17/parameters/format", "not_allowed"),
            ("/executions/19/job", "job_not_found"),
            ("/executions/23/delay", "not_allowed"),
        }
        assert api.count_rows("executions") == 0

    def test_batch_item_of_wrong_type_is_rejected_with_pointer(self, api: ApiDriver) -> None:
        items = self._make_items(3)
        items[1]["priority"] = "high"
        items[2] = {"parameters": {}}
        response = api.client.post("/api/v1/executions/batch", json={"executions": items})
        assert _list_codes(response) == {("/executions/1/priority", "wrong_type"), ("/executions/2/job", "missing")}

    def test_batch_replay_returns_the_same_batch(self, any_api: ApiDriver) -> None:
        body = {"executions": self._make_items(3)}
        first = any_api.client.post("/api/v1/executions/batch", json=body, headers=IDEMPOTENCY_HEADER)
        second = any_api.client.post("/api/v1/executions/batch", json=body, headers=IDEMPOTENCY_HEADER)
        assert first.json == second.json
        assert any_api.count_rows("executions") == 3


def _make_nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("jobs/export/executions", lambda parameters: {"parameters": parameters}),
        ("executions/batch", lambda parameters: {"executions": [{"job": "export", "parameters": parameters}]}),
        (
            "executions/batch",
            lambda parameters: {
                "executions": [{"job": "export", "parameters": {"user_id": "u"}}],
                "on_complete": {"job": "export", "parameters": parameters},
            },
        ),
        ("workflows", lambda parameters: {"steps": {"a": {"job": "export", "parameters": parameters}}}),
        ("jobs", lambda parameters: {"name": "deep", "task": EXPORT_TASK.name, "defaults": parameters}),
        (
            "schedules",
            lambda parameters: {
                "name": "deep",
                "job": "export",
                "rule": {"kind": "interval", "every": 60},
                "parameters": parameters,
            },
        ),
    ],
)
def test_parameters_have_one_depth_limit_in_all_requests(api: ApiDriver, path: str, body: Any) -> None:
    deepest = {"user_id": "u", "options": _make_nested(MAX_DEPTH - 1)}
    deeper = {"user_id": "u", "options": _make_nested(MAX_DEPTH)}
    refused = api.client.post(f"/api/v1/{path}", json=body(deeper))
    assert refused.status_code == 422
    assert f"nesting of more than {MAX_DEPTH} levels" in refused.text
    assert api.client.post(f"/api/v1/{path}", json=body(deepest)).status_code in (201, 202)
