"""Queues over HTTP, and why executions wait."""

import datetime as dt
from typing import Any

import pytest

from jobworker.clock import SystemClock
from jobworker.domain.jobs.definition import JobOwner
from jobworker.store import audit, jobs, queues
from jobworker.store.tables import core
from tests.integration.http.conftest import EXPORT_TASK, ApiDriver

PAUSE_PATH, RESUME_PATH = "/api/v1/queues/default/pause", "/api/v1/queues/default/resume"
LIMITED_JOB = {"name": "limited", "task": EXPORT_TASK.name, "concurrency": {"limit": 1, "key": "{user_id}"}}


def _list_blockers(api: ApiDriver, execution: str) -> dict[str, Any]:
    shown = api.client.get(f"/api/v1/executions/{execution}/why").json
    assert shown["id"] == execution
    assert all(reason["message"] for reason in shown["reasons"])
    return {reason["code"]: reason["details"] for reason in shown["reasons"]}


def _define_job(api: ApiDriver, **definition: Any) -> None:
    assert api.client.post("/api/v1/jobs", json=definition).status_code == 201


def test_builtin_and_consumed_queues_exist_before_any_submission(api: ApiDriver) -> None:
    api.insert_worker(queues=("default", "mail"))
    shown = api.client.get("/api/v1/queues").json["items"]
    assert [(queue["name"], queue["workers"]) for queue in shown] == [
        ("background", 0),
        ("critical", 0),
        ("default", 1),
        ("mail", 1),
    ]
    cursor = api.client.get("/api/v1/queues?limit=1").json["next"]
    second = api.client.get(f"/api/v1/queues?limit=1&cursor={cursor}")
    assert [queue["name"] for queue in second.json["items"]] == ["critical"]


def test_queue_counts_its_executions(any_api: ApiDriver) -> None:
    ready, published, running = (any_api.submit_accepted()["id"] for _ in range(3))
    now = SystemClock().now()
    any_api.update_execution(ready, due_at=now - dt.timedelta(hours=1))
    any_api.update_execution(published, dispatched_at=now)
    any_api.update_execution(running, dispatched_at=now, state="Running", worker="w1")
    shown = any_api.client.get("/api/v1/queues/default").json
    assert (shown["ready"], shown["published"], shown["running"]) == (1, 1, 1)
    assert 3600 <= shown["oldest_age"] < 3700
    empty = any_api.client.get("/api/v1/queues/critical").json
    assert (empty["ready"], empty["oldest_due_at"], empty["oldest_age"]) == (0, None, None)


def test_queue_pause_is_idempotent_and_records_its_actor(any_api: ApiDriver) -> None:
    first = any_api.client.post(PAUSE_PATH, json={"note": "the mail server moves"}).json
    assert (first["paused_by"], first["pause_note"]) == ("api", "the mail server moves")
    assert any_api.client.post(PAUSE_PATH).json == first
    assert any_api.client.post(PAUSE_PATH, json={"note": "it still moves"}).json["pause_note"] == "it still moves"

    execution = any_api.submit_accepted()["id"]
    shown = any_api.client.get(f"/api/v1/executions/{execution}").json["reason"]
    assert "paused by api" in shown and "it still moves" in shown  # noqa: PT018
    assert _list_blockers(any_api, execution)["queue_paused"]["note"] == "it still moves"

    resumed = any_api.client.post(RESUME_PATH).json
    assert (resumed["paused_at"], resumed["paused_by"], resumed["pause_note"]) == (None, None, None)
    assert any_api.client.post(RESUME_PATH).json["paused_at"] is None
    with any_api.database.read() as connection:
        done = [entry.action for entry in audit.list_by_subject(connection, "default")]
    assert done == ["queue.pause", "queue.pause", "queue.resume"]


def test_unknown_queue_returns_404_and_long_note_422(api: ApiDriver) -> None:
    api.client.post("/api/v1/queues/critical/pause")
    for response in (api.client.post("/api/v1/queues/critcal/pause"), api.client.get("/api/v1/queues/critcal")):
        assert (response.status_code, response.json["code"]) == (404, "queue_not_found")
        assert "critical" in response.json["detail"]
    for note in ("x" * 1001, "\x1b[8m"):
        refused = api.client.post(PAUSE_PATH, json={"note": note})
        assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/note")


def test_why_lists_every_reason(any_api: ApiDriver) -> None:
    _define_job(any_api, **LIMITED_JOB)
    holder = any_api.submit_accepted(job="limited")["id"]
    any_api.update_execution(holder, state="Running", worker="w1", started_at=SystemClock().now(), attempt=1)
    waiting = any_api.submit_accepted(job="limited")["id"]
    any_api.submit_accepted({"parameters": {"user_id": "other"}, "priority": 9}, job="limited")
    any_api.client.post(PAUSE_PATH)
    reasons = _list_blockers(any_api, waiting)
    assert set(reasons) == {"queue_paused", "no_worker_for_task", "concurrency_limit", "position"}
    assert reasons["concurrency_limit"] == {"key": "limited/u-17", "limit": 1, "held": 1, "holders": [holder]}
    assert reasons["position"]["ahead"] == 1
    running = _list_blockers(any_api, holder)
    assert (set(running), running["running"]["worker"]) == ({"running"}, "w1")


def test_why_reports_concurrency_total_and_rate_limit(any_api: ApiDriver) -> None:
    now = SystemClock().now()
    concurrency, rate = {"limit": 5, "key": "{user_id}", "total": 1}, {"limit": 1, "per": 3600}
    _define_job(any_api, name="strict", task=EXPORT_TASK.name, concurrency=concurrency, rate_limit=rate)
    holder = any_api.submit_accepted(job="strict")["id"]
    any_api.update_execution(holder, state="Running", worker="w1")
    full_at = now + dt.timedelta(seconds=1800)
    any_api.insert_row("rate_buckets", key="strict/", full_at=full_at)
    any_api.insert_worker()
    waiting = any_api.submit_accepted({"parameters": {"user_id": "other"}}, job="strict")["id"]
    reasons = _list_blockers(any_api, waiting)
    assert set(reasons) == {"concurrency_total", "rate_limit", "position"}
    assert reasons["concurrency_total"]["holders"] == [holder]
    assert abs(dt.datetime.fromisoformat(reasons["rate_limit"]["until"]) - full_at) < dt.timedelta(seconds=5)


def test_why_reports_a_silent_relay(any_api: ApiDriver) -> None:
    execution = any_api.submit_accepted()["id"]
    silent = SystemClock().now() - dt.timedelta(seconds=60)
    with any_api.database.write() as connection:
        connection.execute(core.relay_state.update().values(turned_at=silent))
    reasons = any_api.client.get(f"/api/v1/executions/{execution}/why").json["reasons"]
    assert reasons[0]["code"] == "no_relay"
    assert str(silent.year) in reasons[0]["message"]


def test_why_reports_due_times(any_api: ApiDriver) -> None:
    any_api.insert_worker()
    later = any_api.submit_accepted({"parameters": {"user_id": "u"}, "delay": 3600})["id"]
    assert set(_list_blockers(any_api, later)) == {"not_due"}
    again = any_api.submit_accepted()["id"]
    due = SystemClock().now() + dt.timedelta(seconds=30)
    any_api.update_execution(again, state="Retrying", attempt=2, max_attempts=5, due_at=due, reason="ValueError: no")
    [reason] = any_api.client.get(f"/api/v1/executions/{again}/why").json["reasons"]
    assert (reason["code"], reason["details"]["attempt"]) == ("retry_not_due", 3)
    assert reason["message"].startswith("attempt 3 of 5 is due at")


def test_why_reports_missing_workers_cancellation_and_end(any_api: ApiDriver) -> None:
    any_api.insert_worker()
    now = SystemClock().now()
    waiting, blocking = (any_api.submit_accepted()["id"] for _ in range(2))
    for execution in (waiting, blocking):
        any_api.update_execution(execution, dispatched_at=now)
    assert _list_blockers(any_api, waiting)["waiting_for_worker"]["others"] == 1
    assert any_api.client.post(f"/api/v1/executions/{waiting}/cancel").status_code == 202
    assert set(_list_blockers(any_api, waiting)) == {"cancel_requested", "waiting_for_worker"}
    any_api.enter_state(blocking, 1, "Succeeded", finished_at=now)
    assert _list_blockers(any_api, blocking) == {}
    assert any_api.client.get("/api/v1/executions/nobody/why").status_code == 404


def test_key_with_unknown_parameter_is_rejected_with_pointer(api: ApiDriver) -> None:
    refused = api.client.post("/api/v1/jobs", json={**LIMITED_JOB, "concurrency": {"limit": 1, "key": "{tenant}"}})
    [problem] = refused.json["errors"]
    assert (refused.status_code, problem["pointer"], problem["code"]) == (422, "/concurrency/key", "unknown_parameter")
    assert "user_id" in problem["message"]


def test_limits_of_a_job_are_shown(api: ApiDriver) -> None:
    _define_job(api, **LIMITED_JOB, rate_limit={"limit": 5, "per": "PT1M"}, unique={"for": 60})
    shown = api.client.get("/api/v1/jobs/limited").json
    assert shown["concurrency"] == {"limit": 1, "key": "{user_id}", "total": None}
    assert shown["rate_limit"] == {"limit": 5, "per": 60.0, "burst": 1, "key": None}
    assert shown["unique"] == {"key": None, "until": None, "for": 60.0, "on_conflict": "reject"}
    with api.database.write() as connection:
        row = jobs.get(connection, "limited")
        assert row is not None
        assert row.owner is JobOwner.API
    execution = api.submit_accepted(job="limited")
    assert (execution["concurrency_key"], execution["rate_key"]) == ("limited/u-17", "limited/")


MAIL_PATH = "/api/v1/queues/mail"


def _list_audit_actions(api: ApiDriver, name: str) -> list[str]:
    with api.database.read() as connection:
        return [f"{entry.actor} {entry.action}" for entry in audit.list_by_subject(connection, name)]


def test_queue_is_created_once_and_removed_once(any_api: ApiDriver) -> None:
    created = any_api.client.put(MAIL_PATH)
    assert (created.status_code, created.json["name"], created.json["created_by"]) == (201, "mail", "api")
    again = any_api.client.put(MAIL_PATH)
    assert (again.status_code, again.json) == (200, created.json)
    assert "mail" in [queue["name"] for queue in any_api.client.get("/api/v1/queues").json["items"]]
    assert any_api.client.delete(MAIL_PATH).status_code == 204
    gone = any_api.client.delete(MAIL_PATH)
    assert (gone.status_code, gone.json["code"]) == (404, "queue_not_found")
    assert _list_audit_actions(any_api, "mail") == ["api queue.create", "api queue.remove"]


def test_automatic_queue_becomes_a_created_queue(any_api: ApiDriver) -> None:
    with any_api.database.write() as connection:
        queues.upsert_many(connection, ["mail"], SystemClock().now())
    assert any_api.client.get(MAIL_PATH).json["created_by"] is None
    created = any_api.client.put(MAIL_PATH)
    assert (created.status_code, created.json["created_by"]) == (200, "api")
    shipped = any_api.client.put("/api/v1/queues/default")
    assert (shipped.status_code, shipped.json["created_by"]) == (200, None)
    assert _list_audit_actions(any_api, "default") == []


def test_queue_in_use_is_not_removed_and_names_its_users(any_api: ApiDriver) -> None:
    any_api.client.put(MAIL_PATH)
    any_api.insert_worker(queues=("default", "mail"))
    _define_job(any_api, name="mailing", task=EXPORT_TASK.name, queue="mail")
    any_api.submit_accepted({"parameters": {"user_id": "u"}, "queue": "mail", "delay": 60})
    any_api.client.post(f"{MAIL_PATH}/pause")
    refused = any_api.client.delete(MAIL_PATH)
    assert (refused.status_code, refused.json["code"]) == (409, "queue_in_use")
    assert refused.json["detail"] == (
        "queue mail cannot be removed: 1 live worker consumes it; it is paused, resume it first; "
        "a job's definition names it; it has unfinished executions"
    )
    for name in ("critical", "default"):
        refused = any_api.client.delete(f"/api/v1/queues/{name}")
        assert (refused.status_code, "it is shipped" in refused.json["detail"]) == (409, True)


def test_pause_keeps_the_creator_of_a_queue(api: ApiDriver) -> None:
    api.client.put(MAIL_PATH)
    assert api.client.post(f"{MAIL_PATH}/pause").json["created_by"] == "api"
    assert api.client.post(f"{MAIL_PATH}/resume").json["created_by"] == "api"


@pytest.mark.parametrize("name", ["Mail", "a%20b", "x" * 65, "nul%00"])
def test_invalid_queue_name_is_rejected(any_api: ApiDriver, name: str) -> None:
    refused = any_api.client.put(f"/api/v1/queues/{name}")
    [problem] = refused.json["errors"]
    assert (refused.status_code, problem["pointer"], problem["code"]) == (422, "name", "not_allowed")
    assert any_api.client.delete(f"/api/v1/queues/{name}").status_code == 404
    assert any_api.client.get(f"/api/v1/queues/{name}").status_code == 404


def test_queues_are_paged_in_one_order_on_both_databases(any_api: ApiDriver) -> None:
    names = ["a", "a-b", "a.b", "a0", "a_b", "aa", "background", "critical", "default", "z"]
    for name in names:
        any_api.client.put(f"/api/v1/queues/{name}")
    listed_names: list[str] = []
    url: str | None = "/api/v1/queues?limit=3"
    while url:
        page = any_api.client.get(url).json
        listed_names += [queue["name"] for queue in page["items"]]
        url = page["next"] and f"/api/v1/queues?limit=3&cursor={page['next']}"
    assert listed_names == sorted(names)
