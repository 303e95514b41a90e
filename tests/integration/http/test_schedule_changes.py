"""Changes and deletion of schedules over HTTP, and of a job that schedules use."""

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobworker.clock import SystemClock
from jobworker.domain.jobs.definition import JobOwner
from jobworker.domain.schedules.schedule import ScheduleOwner
from jobworker.store.calendars import calendar_rows
from tests.integration.http.conftest import ApiDriver
from tests.integration.http.test_schedules import SCHEDULE, URL, create_schedule, insert_declared_schedule, set_due


class TestScheduleChange:
    """PUT and DELETE with If-Match."""

    def _put_schedule(self, api: ApiDriver, match: str | None = '"1"', **changes: Any) -> Any:
        headers = {} if match is None else {"If-Match": match}
        return api.client.put(URL, json={**SCHEDULE, **changes}, headers=headers)

    def test_change_creates_a_revision(self, any_api: ApiDriver) -> None:
        create_schedule(any_api)
        response = self._put_schedule(any_api, zone="Asia/Tokyo")
        assert (response.status_code, response.headers["ETag"], response.json["zone"]) == (200, '"2"', "Asia/Tokyo")
        assert any_api.client.get(URL).json == response.json
        revisions = any_api.client.get(f"{URL}/revisions").json["items"]
        assert [(revision["revision"], revision["changed"]) for revision in revisions] == [(2, ["/zone"]), (1, None)]
        first = any_api.client.get(f"{URL}/revisions/1").json
        assert (first["definition"]["zone"], first["actor"]) == ("UTC", "api")
        missing = any_api.client.get(f"{URL}/revisions/3")
        assert (missing.status_code, missing.json["code"]) == (404, "revision_not_found")

    def test_deleted_schedule_is_readable_by_its_id(self, any_api: ApiDriver) -> None:
        spec = {"kind": "dates", "days": {"2031-07-02": "Company day"}}
        with any_api.database.write() as connection:
            calendar_rows.upsert(connection, "off", spec, JobOwner.API, "api", SystemClock().now())
        schedule_id = create_schedule(any_api, exclude=["off"], zone="Asia/Tokyo")["id"]
        at = dt.datetime(2026, 3, 2, 21, tzinfo=dt.UTC)
        row = {"scheduled_for": at, "outcome": "missed", "reason": None, "execution_id": None, "recorded_at": at}
        any_api.insert_row("occurrences", schedule_id=schedule_id, **row)
        assert any_api.client.delete(URL, headers={"If-Match": '"1"'}).status_code == 204
        with any_api.database.write() as connection:
            off = calendar_rows.get(connection, "off")
            assert off is not None
            calendar_rows.delete(connection, off, "api", SystemClock().now())
        [revision] = any_api.client.get(f"/api/v1/schedules/{schedule_id}/revisions").json["items"]
        assert (revision["schedule"], revision["definition"]["exclude"]) == ("morning", ["off"])
        assert any_api.client.get(revision["links"]["self"]).json == revision
        [occurrence] = any_api.client.get(revision["links"]["occurrences"]).json["items"]
        assert (occurrence["outcome"], occurrence["local"]) == ("missed", "2026-03-03T06:00:00+09:00")
        ahead = revision["links"]["occurrences"] + "?upcoming=1"
        for url in (URL, f"{URL}/revisions", f"/api/v1/schedules/{schedule_id}", ahead):
            assert any_api.client.get(url).status_code == 404

    def test_change_requires_the_current_revision(self, api: ApiDriver) -> None:
        create_schedule(api)
        assert self._put_schedule(api, None).json["code"] == "precondition_required"
        assert self._put_schedule(api, '"7"', zone="Asia/Tokyo").json["code"] == "precondition_failed"
        assert api.client.delete(URL).status_code == 428
        assert api.client.delete(URL, headers={"If-Match": '"7"'}).status_code == 412
        assert api.client.get(URL).headers["ETag"] == '"1"'

    def test_concurrent_change_is_rejected(self, any_api: ApiDriver) -> None:
        create_schedule(any_api)
        barrier = threading.Barrier(2)

        def change(zone: str) -> int:
            client: Any = any_api.app.test_client()
            barrier.wait()
            body = {**SCHEDULE, "zone": zone}
            status: int = client.put(URL, json=body, headers={"If-Match": '"1"'}).status_code
            return status

        with ThreadPoolExecutor(2) as threads:
            assert sorted(threads.map(change, ["Asia/Tokyo", "Asia/Kolkata"])) == [200, 412]
        assert any_api.client.get(URL).headers["ETag"] == '"2"'

    def test_occurrence_due_under_the_old_rule_fires(self, any_api: ApiDriver) -> None:
        create_schedule(any_api)
        now = SystemClock().now()
        every = {"kind": "interval", "every": 3600, "anchor": (now - dt.timedelta(seconds=30)).isoformat()}
        assert self._put_schedule(any_api, rule=every).status_code == 200
        set_due(any_api, "morning", now - dt.timedelta(seconds=30))
        assert self._put_schedule(any_api, "*").status_code == 200
        assert (any_api.count_rows("occurrences"), any_api.count_rows("executions")) == (1, 1)

    def test_schedule_cannot_be_renamed(self, api: ApiDriver) -> None:
        create_schedule(api)
        assert self._put_schedule(api, name="evening").json["errors"][0]["pointer"] == "/name"
        body = {name: value for name, value in SCHEDULE.items() if name != "name"}
        unnamed = api.client.put(URL, json={**body, "priority": 3}, headers={"If-Match": "*"})
        assert (unnamed.status_code, unnamed.json["name"], unnamed.json["priority"]) == (200, "morning", 3)

    def test_invalid_change_leaves_schedule_unchanged(self, api: ApiDriver) -> None:
        create_schedule(api)
        response = self._put_schedule(api, rule={"kind": "daily", "time": "25:00"})
        assert [error["pointer"] for error in response.json["errors"]] == ["/rule/time"]
        assert api.client.get(URL).json["revision"] == 1

    def test_schedule_is_deleted(self, any_api: ApiDriver) -> None:
        create_schedule(any_api)
        assert any_api.client.delete(URL, headers={"If-Match": '"1"'}).status_code == 204
        assert any_api.client.get(URL).status_code == 404
        assert create_schedule(any_api)["revision"] == 1

    def test_schedule_declared_in_code_cannot_be_changed(self, api: ApiDriver) -> None:
        insert_declared_schedule(api, "morning", ScheduleOwner.CODE)
        for response in (self._put_schedule(api), api.client.delete(URL, headers={"If-Match": "*"})):
            assert (response.status_code, response.json["code"]) == (409, "schedule_owned_elsewhere")
            assert "schedules/*.py" in response.json["detail"]

    def test_schedule_of_a_job_definition_cannot_be_changed(self, api: ApiDriver) -> None:
        insert_declared_schedule(api, "morning", ScheduleOwner.JOB)
        response = self._put_schedule(api)
        assert (response.status_code, response.json["code"]) == (409, "schedule_owned_elsewhere")
        assert "PUT /api/v1/jobs/export" in response.json["detail"]


class TestJob:
    """Deletion of a job that schedules use."""

    def test_job_used_by_schedules_cannot_be_deleted(self, any_api: ApiDriver) -> None:
        create_schedule(any_api)
        create_schedule(any_api, name="evening")
        refused = any_api.client.delete("/api/v1/jobs/export", headers={"If-Match": "*"})
        assert (refused.status_code, refused.json["code"]) == (409, "job_scheduled")
        assert "schedules evening, morning" in refused.json["detail"]
        for name in ("morning", "evening"):
            any_api.client.delete(f"/api/v1/schedules/{name}", headers={"If-Match": "*"})
        assert any_api.client.delete("/api/v1/jobs/export", headers={"If-Match": "*"}).status_code == 204
