"""Pausing and resuming schedules over HTTP."""

import datetime as dt
from typing import Any

import pytest
import sqlalchemy as sa

from jobworker.clock import SystemClock
from jobworker.domain.schedules.schedule import ScheduleOwner
from jobworker.store.tables.schedules import job_schedules
from tests.integration.http.conftest import ApiDriver
from tests.integration.http.test_occurrences import URL, list_occurrences
from tests.integration.http.test_schedules import create_schedule, insert_declared_schedule, set_due

LATER = "2031-01-07T06:00:00Z"


def request_pause(api: ApiDriver, **body: Any) -> Any:
    """Request a pause."""
    return api.client.post(f"{URL}/pause", json=body)


def request_resume(api: ApiDriver, **body: Any) -> Any:
    """Request a resume."""
    return api.client.post(f"{URL}/resume", json=body)


def test_pause_is_shown_with_note_and_end(any_api: ApiDriver) -> None:
    create_schedule(any_api)
    response = request_pause(any_api, note="moving house", until=LATER)
    assert response.status_code == 200, response.json
    shown = response.json
    assert (shown["state"], shown["expected_by"], shown["overdue"]) == ("paused", None, False)
    assert {**shown["paused"], "at": None} == {"at": None, "by": "api", "note": "moving house", "until": LATER}
    assert any_api.client.get("/api/v1/schedules?state=paused").json["items"] == [shown]
    gone_on = request_resume(any_api)
    assert (gone_on.status_code, gone_on.json["state"], gone_on.json["paused"]) == (200, "active", None)


def test_expired_pause_is_not_shown_before_the_relay_ends_it(any_api: ApiDriver) -> None:
    create_schedule(any_api, rule={"kind": "interval", "every": 60})
    request_pause(any_api, until=LATER)
    now = SystemClock().now().replace(microsecond=0)
    set_due(any_api, "morning", now - dt.timedelta(minutes=10))
    for ended, state, overdue in ((-600, "paused", False), (30, "active", False), (61, "active", True)):
        end = now - dt.timedelta(seconds=ended)
        _update_schedule(any_api, paused_at=now - dt.timedelta(hours=1), paused_until=end)
        shown = any_api.client.get(URL).json
        by = (end + dt.timedelta(seconds=60)).isoformat().replace("+00:00", "Z") if state == "active" else None
        assert (shown["state"], shown["overdue"], shown["expected_by"]) == (state, overdue, by)
        assert any_api.client.get(f"/api/v1/schedules?state={state}").json["items"] == [shown]
        late = any_api.client.get("/api/v1/schedules?overdue=true").json["items"]
        assert [schedule["name"] for schedule in late] == ["morning"] * overdue


def test_repeated_pause_changes_only_the_note(api: ApiDriver) -> None:
    create_schedule(api)
    since = api.client.post(f"{URL}/pause").json["paused"]["at"]
    again = request_pause(api, note="longer than thought").json["paused"]
    assert (again["at"], again["note"], again["until"]) == (since, "longer than thought", None)
    assert request_resume(api).json == request_resume(api).json


def test_missed_occurrences_are_handled_as_the_resume_request_says(any_api: ApiDriver) -> None:
    create_schedule(any_api, rule={"kind": "interval", "every": 60}, overlap="allow")
    now = SystemClock().now().replace(microsecond=0)
    request_pause(any_api, note="quiet please")
    _update_schedule(any_api, paused_at=now - dt.timedelta(minutes=30))
    set_due(any_api, "morning", (now - dt.timedelta(minutes=10)).replace(second=0))
    assert request_resume(any_api, policy="catch_up").status_code == 200
    listed = list_occurrences(any_api)
    assert {occurrence["outcome"] for occurrence in listed} == {"fired"}
    assert len(listed) in (10, 11)
    assert "skipped by a pause" in listed[0]["reason"]


def test_missed_occurrences_are_skipped_by_default(api: ApiDriver) -> None:
    create_schedule(api, rule={"kind": "interval", "every": 60})
    now = SystemClock().now()
    request_pause(api, note="quiet please")
    _update_schedule(api, paused_at=now - dt.timedelta(minutes=30))
    set_due(api, "morning", (now - dt.timedelta(minutes=3)).replace(second=0, microsecond=0))
    request_resume(api)
    assert {occurrence["outcome"] for occurrence in list_occurrences(api)} == {"skipped_paused"}
    assert "quiet please" in list_occurrences(api)[0]["reason"]


def test_paused_schedule_can_be_fired_by_hand(api: ApiDriver) -> None:
    create_schedule(api)
    request_pause(api)
    assert api.client.post(f"{URL}/fire").status_code == 202


@pytest.mark.parametrize("owner", [ScheduleOwner.CODE, ScheduleOwner.JOB])
def test_declared_schedule_can_be_paused_and_fired(api: ApiDriver, owner: ScheduleOwner) -> None:
    insert_declared_schedule(api, "morning", owner)
    assert request_pause(api).status_code == request_resume(api).status_code == 200
    assert api.client.post(f"{URL}/fire").status_code == 202


@pytest.mark.parametrize(
    ("action", "body", "pointer", "code"),
    [
        ("pause", {"until": "2020-01-01T00:00:00Z"}, "/until", "past_time"),
        ("pause", {"until": "tomorrow"}, "/until", "wrong_type"),
        ("pause", {"note": 17}, "/note", "wrong_type"),
        ("pause", {"note": "\x1b[8m"}, "/note", "not_allowed"),
        ("pause", {"colour": "red"}, "/colour", "unknown_field"),
        ("resume", {"policy": "maybe"}, "/policy", "not_allowed"),
    ],
)
def test_invalid_pause_or_resume_returns_422_with_pointer(
    api: ApiDriver, action: str, body: dict[str, Any], pointer: str, code: str
) -> None:
    create_schedule(api)
    response = api.client.post(f"{URL}/{action}", json=body)
    assert response.status_code == 422
    assert [(error["pointer"], error["code"]) for error in response.json["errors"]] == [(pointer, code)]


@pytest.mark.parametrize("action", ["pause", "resume", "fire"])
def test_action_on_unknown_schedule_returns_404(api: ApiDriver, action: str) -> None:
    response = api.client.post(f"{URL}/{action}")
    assert (response.status_code, response.json["code"]) == (404, "schedule_not_found")


def _update_schedule(api: ApiDriver, **values: Any) -> None:
    with api.database.write() as connection:
        connection.execute(sa.update(job_schedules).values(values))
