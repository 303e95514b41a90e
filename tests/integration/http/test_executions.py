"""Executions over HTTP: read, list, cancel, wait."""

import threading
from typing import Any

import pytest

from tests.integration.http.conftest import ApiDriver
from tests.polling import TIMEOUT_SECONDS

UNKNOWN_PATH = "/api/v1/executions/0199aaaa-0000-7000-8000-000000000000"


def _get_file_folder(execution: dict[str, Any], below: str = "") -> str:
    return f"/api/v1/executions/{execution['id']}{below}"


def test_ended_execution_is_read_with_all_its_parts(any_api: ApiDriver) -> None:
    execution = any_api.submit_accepted()
    failure = {"type": "ValueError", "message": "no", "traceback": "…"}
    any_api.insert_row(
        "attempts", execution_id=execution["id"], attempt=1, state="Failed", worker="w", runtime=0.25, error=failure
    )
    any_api.enter_state(
        execution["id"],
        1,
        "Running",
        worker="w",
        code_version="v1",
        progress={"attempt": 1, "done": 1, "total": 2, "message": None},
    )
    any_api.enter_state(execution["id"], 1, "Failed", error=failure, reason="no attempt left")
    any_api.insert_log_line(execution["id"], 1, "hello")
    shown = any_api.client.get(_get_file_folder(execution)).json
    assert (shown["state"], shown["attempt"], shown["error"]) == ("Failed", 1, failure)
    assert (shown["worker"], shown["progress"]["done"], shown["reason"]) == ("w", 1, "no attempt left")
    [attempt] = any_api.client.get(shown["links"]["attempts"]).json["items"]
    assert (attempt["state"], attempt["runtime"], attempt["error"]) == ("Failed", 0.25, failure)
    transitions = any_api.client.get(shown["links"]["transitions"]).json["items"]
    assert [transition["state"] for transition in transitions] == ["Queued", "Running", "Failed"]
    assert [transition["actor"] for transition in transitions] == ["api", "worker:w", "worker:w"]
    [line] = any_api.client.get(shown["links"]["logs"]).json["items"]
    assert (line["message"], line["level"]) == ("hello", "INFO")
    result = any_api.client.get(shown["links"]["result"]).json
    assert (result["state"], result["error"], result["result"]) == ("Failed", failure, None)


@pytest.mark.parametrize("result", [None, 0, False, "", [], {"file": "x.csv"}])
def test_result_may_be_any_json_value(any_api: ApiDriver, result: Any) -> None:
    execution = any_api.submit_accepted()
    any_api.enter_state(execution["id"], 1, "Succeeded", result=result)
    assert any_api.client.get(_get_file_folder(execution, "/result")).json["result"] == result


def test_result_of_unfinished_execution_returns_409(api: ApiDriver) -> None:
    response = api.client.get(_get_file_folder(api.submit_accepted(), "/result"))
    assert (response.status_code, response.json["code"]) == (409, "not_finished")


@pytest.mark.parametrize("below", ["", "/attempts", "/transitions", "/logs", "/result", "/events"])
@pytest.mark.parametrize("name", ["0199aaaa-0000-7000-8000-000000000000", "nonsense", "a%00b", "BATCH"])
def test_unknown_execution_returns_404(any_api: ApiDriver, name: str, below: str) -> None:
    response = any_api.client.get(f"/api/v1/executions/{name}{below}")
    assert (response.status_code, response.json["code"]) == (404, "execution_not_found")


class TestReason:
    """Reason why a queued execution does not run."""

    def test_queued_execution_without_workers_has_a_reason(self, api: ApiDriver) -> None:
        execution = api.submit_accepted()
        assert (
            api.client.get(_get_file_folder(execution)).json["reason"]
            == "no live worker offers task tasks.exports.export"
        )
        [listed] = api.client.get("/api/v1/executions").json["items"]
        assert listed["reason"] == "no live worker offers task tasks.exports.export"

    def test_queued_execution_with_workers_on_other_queues_has_a_reason(self, api: ApiDriver) -> None:
        execution = api.submit_accepted()
        api.insert_worker(queues=("critical",))
        assert api.client.get(_get_file_folder(execution)).json["reason"] == "no live worker consumes queue default"

    def test_queued_execution_with_a_matching_worker_has_no_reason(self, api: ApiDriver) -> None:
        execution = api.submit_accepted()
        api.insert_worker("gone", is_gone=True)
        assert api.client.get(_get_file_folder(execution)).json["reason"] is not None
        api.insert_worker("there")
        assert api.client.get(_get_file_folder(execution)).json["reason"] is None

    def test_scheduled_execution_has_no_reason(self, api: ApiDriver) -> None:
        execution = api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 60})
        assert api.client.get(_get_file_folder(execution)).json["reason"] is None


class TestExecutionList:
    """Lists with their filters and pages."""

    def test_pages_keep_their_filter(self, any_api: ApiDriver) -> None:
        any_api.create_queue("mail")
        mail_ids = [any_api.submit_accepted({"parameters": {"user_id": "u"}, "queue": "mail"})["id"] for _ in range(5)]
        any_api.submit_accepted()
        listed_ids: list[str] = []
        url: str | None = "/api/v1/executions?queue=mail&limit=2"
        while url:
            page = any_api.client.get(url).json
            listed_ids += [execution["id"] for execution in page["items"]]
            url = f"/api/v1/executions?queue=mail&limit=2&cursor={page['next']}" if page["next"] else None
        assert listed_ids == mail_ids[::-1]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("job=export", 2),
            ("job=other", 0),
            ("state=Queued", 1),
            ("state=Scheduled&job=export", 1),
            ("correlation_id=c", 1),
            ("created_after=2020-01-01T00:00:00Z", 2),
            ("created_after=2020-01-01T00:00:00%2B01:00", 2),
            ("created_before=2020-01-01T00:00:00Z", 0),
            ("created_before=9999-12-31T00:00:00Z", 2),
            ("created_after=0001-01-01T00:00:00Z", 2),
        ],
    )
    def test_filters_select_executions(self, any_api: ApiDriver, query: str, expected: int) -> None:
        any_api.submit_accepted({"parameters": {"user_id": "u"}, "correlation_id": "c"})
        any_api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 60})
        assert len(any_api.client.get(f"/api/v1/executions?{query}").json["items"]) == expected

    @pytest.mark.parametrize(
        ("query", "pointer", "code"),
        [
            ("sate=Queued", "sate", "unknown_field"),
            ("state=queued", "state", "not_allowed"),
            ("state=Queued&state=Running", "state", "repeated"),
            ("limit=0", "limit", "not_allowed"),
            ("limit=201", "limit", "not_allowed"),
            ("limit=ten", "limit", "not_allowed"),
            (f"limit={'9' * 5000}", "limit", "not_allowed"),
            ("batch_id=7", "batch_id", "not_allowed"),
            ("job=a%00b", "job", "not_allowed"),
            ("queue=%00", "queue", "not_allowed"),
            ("correlation_id=", "correlation_id", "not_allowed"),
            ("created_after=yesterday", "created_after", "wrong_type"),
            ("created_after=2026-01-01T00:00:00", "created_after", "naive_time"),
            ("created_before=2026-01-01T00:00:00+01:00", "created_before", "wrong_type"),
            ("cursor=nonsense", "cursor", "invalid_cursor"),
            ("cursor=", "cursor", "invalid_cursor"),
        ],
    )
    def test_invalid_query_returns_422_with_its_name(self, api: ApiDriver, query: str, pointer: str, code: str) -> None:
        response = api.client.get(f"/api/v1/executions?{query}")
        assert response.status_code == 422
        assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(pointer, code)]

    def test_cursor_of_another_list_is_rejected(self, api: ApiDriver) -> None:
        for _ in range(3):
            api.submit_accepted()
        cursor = api.client.get("/api/v1/executions?limit=1").json["next"]
        for url in (
            f"/api/v1/executions?limit=1&job=export&cursor={cursor}",
            f"/api/v1/executions?limit=1&cursor={'B' if cursor[0] == 'A' else 'A'}{cursor[1:]}",
            f"/api/v1/jobs?cursor={cursor}",
        ):
            assert api.client.get(url).json["code"] == "invalid_cursor"

    def test_resources_without_query_parameters_reject_them(self, api: ApiDriver) -> None:
        execution = api.submit_accepted()
        for url in (_get_file_folder(execution), "/api/v1/jobs/export", "/healthz", "/metrics"):
            assert api.client.get(f"{url}?verbose=1").json["errors"][0]["pointer"] == "verbose"


class TestCancel:
    """Cancellation."""

    def test_scheduled_execution_is_cancelled_at_once(self, any_api: ApiDriver) -> None:
        execution = any_api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 60})
        for _ in range(2):
            response = any_api.client.post(_get_file_folder(execution, "/cancel"))
            assert (response.status_code, response.json["state"]) == (200, "Cancelled")
        transitions = any_api.client.get(_get_file_folder(execution, "/transitions")).json["items"]
        assert [(transition["state"], transition["actor"]) for transition in transitions] == [
            ("Scheduled", "api"),
            ("Cancelled", "api"),
        ]
        assert response.json["finished_at"] is not None

    def test_queued_execution_gets_a_cancel_request(self, any_api: ApiDriver) -> None:
        execution = any_api.submit_accepted()
        first = any_api.client.post(_get_file_folder(execution, "/cancel"), json={})
        second = any_api.client.post(_get_file_folder(execution, "/cancel"))
        assert (first.status_code, first.json["state"], first.json["cancel_requested_by"]) == (202, "Queued", "api")
        assert (second.status_code, second.json["cancel_requested_at"]) == (202, first.json["cancel_requested_at"])

    def test_retrying_execution_is_cancelled_in_its_attempt(self, any_api: ApiDriver) -> None:
        execution = any_api.submit_accepted()
        any_api.enter_state(execution["id"], 1, "Retrying")
        assert any_api.client.post(_get_file_folder(execution, "/cancel")).json["attempt"] == 1

    def test_running_execution_gets_a_cancel_request_and_stays_running(self, any_api: ApiDriver) -> None:
        execution = any_api.submit_accepted()
        any_api.enter_state(execution["id"], 1, "Running")
        first = any_api.client.post(_get_file_folder(execution, "/cancel"))
        second = any_api.client.post(_get_file_folder(execution, "/cancel"))
        assert (first.status_code, first.json["state"], first.json["cancel_requested_by"]) == (202, "Running", "api")
        assert (second.status_code, second.json["cancel_requested_at"]) == (202, first.json["cancel_requested_at"])

    @pytest.mark.parametrize("state", ["Succeeded", "Failed", "TimedOut", "Skipped"])
    def test_ended_execution_cannot_be_cancelled(self, api: ApiDriver, state: str) -> None:
        execution = api.submit_accepted()
        api.enter_state(execution["id"], 1, state)
        response = api.client.post(_get_file_folder(execution, "/cancel"))
        assert (response.status_code, response.json["code"]) == (409, "not_cancellable")
        assert state in response.json["detail"]

    def test_cancel_rejects_a_body(self, api: ApiDriver) -> None:
        response = api.client.post(_get_file_folder(api.submit_accepted(), "/cancel"), json={"force": True})
        assert response.status_code == 422

    def test_cancel_of_unknown_execution_returns_404(self, api: ApiDriver) -> None:
        assert api.client.post(f"{UNKNOWN_PATH}/cancel").status_code == 404


class TestPrefer:
    """Header Prefer: waiting for the result."""

    def _submit(self, api: ApiDriver, prefer: str) -> Any:
        return api.submit(headers={"Prefer": prefer})

    def test_submission_returns_the_result_available_in_time(self, any_api: ApiDriver) -> None:
        answered: list[Any] = []
        thread = threading.Thread(target=lambda: answered.append(self._submit(any_api, "respond-async, wait=30")))
        thread.start()
        done = threading.Event()
        while not (listed := any_api.client.get("/api/v1/executions").json["items"]):
            assert not done.wait(0.01)
        any_api.enter_state(listed[0]["id"], 1, "Succeeded", result={"n": 1})
        thread.join(TIMEOUT_SECONDS)
        [response] = answered
        assert (response.status_code, response.json["result"]) == (200, {"n": 1})
        assert response.headers["Preference-Applied"] == "wait=30"
        assert response.headers["Location"] == _get_file_folder(listed[0])

    def test_submission_returns_202_after_its_wait(self, api: ApiDriver) -> None:
        response = self._submit(api, "wait=1")
        assert (response.status_code, response.json["state"]) == (202, "Queued")
        assert response.headers["Preference-Applied"] == "wait=1"

    def test_submission_waits_at_most_30_seconds(self, api: ApiDriver) -> None:
        first = api.submit(headers={"Idempotency-Key": "k"})
        api.enter_state(first.json["id"], 1, "Succeeded")
        response = api.submit(headers={"Idempotency-Key": "k", "Prefer": "wait=600"})
        assert (response.status_code, response.headers["Preference-Applied"]) == (200, "wait=30")

    @pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=-1", "wait=soon", "wait=0", "xwait=5", "return=minimal"])
    def test_invalid_preference_is_ignored(self, api: ApiDriver, prefer: str) -> None:
        response = self._submit(api, prefer)
        assert response.status_code == 202
        assert "Preference-Applied" not in response.headers

    def test_submission_does_not_wait_when_too_many_requests_wait(self, api: ApiDriver) -> None:
        room = api.app.extensions["jobworker"]
        while room.waiting_requests.acquire(blocking=False):
            pass
        response = self._submit(api, "wait=30")
        assert response.status_code == 202
        assert "Preference-Applied" not in response.headers
