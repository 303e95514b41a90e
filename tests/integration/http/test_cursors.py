"""Forged cursors: the digest is not secret, so a cursor may hold any key; a list accepts only keys of its own kind."""

from collections.abc import Mapping
from typing import Any

import pytest

from jobworker.store.pagination import Paginator
from tests.integration.http.conftest import ApiDriver

_NUL = "a\0b"
_IDS = ("", "x", _NUL, "0" * 36, "é" * 300)
_NAMES = ("", _NUL, "x" * 300, "line\nbreak")
_NUMBERS = ("", "abc", "-1", "1.5", "٣", _NUL, "9" * 10, "9" * 30, "9" * 4500)
_MOMENTS = ("", "yesterday", "2026-01-01T00:00:00", _NUL, "0001-01-01T00:00:00+23:00")
_POSITIONS = ("", "1", "1.x", "x.1", ".", "1.2.3", _NUL, "9" * 30 + ".1", "1." + "9" * 4500)
_BOOKMARKS = (*_IDS, "{id} yesterday", "{id} 2026-01-01T00:00:00", _NUL + " ")


def _forge_cursor(name: str, filters: Mapping[str, Any], key: str) -> str:
    return Paginator(name, filters, str).build_cursor(key)


@pytest.fixture
def ids(any_api: ApiDriver) -> dict[str, str]:
    """Names in URLs and listings: the id of an execution, and a schedule with its id."""
    execution = any_api.submit_accepted()["id"]
    schedule = {"name": "nightly", "job": "export", "rule": {"kind": "daily", "time": "02:00"}, "zone": "UTC"}
    response = any_api.client.post("/api/v1/schedules", json={**schedule, "parameters": {"user_id": "u"}})
    assert response.status_code == 201, response.json
    calendar = {"name": "days", "kind": "business", "holidays": [{"country": "DE"}]}
    response = any_api.client.post("/api/v1/calendars", json=calendar)
    assert response.status_code == 201, response.json
    return {"id": execution, "schedule": any_api.client.get("/api/v1/schedules/nightly").json["id"]}


#: Path below /api/v1, name and filters of its listing ({…}: from `ids`), and keys that are invalid for it.
_LISTS: tuple[tuple[str, str, dict[str, str], tuple[str, ...]], ...] = (
    ("executions", "executions", {}, _IDS),
    ("dead-letters", "dead-letters", {}, _IDS),
    ("batches", "batches", {}, _IDS),
    ("executions/{id}/dependencies", "dependencies", {"execution": "{id}"}, _IDS),
    ("executions/{id}/attempts", "attempts", {"execution": "{id}"}, _NUMBERS),
    ("executions/{id}/transitions", "transitions", {"execution": "{id}"}, _POSITIONS),
    ("executions/{id}/logs", "logs", {"execution": "{id}"}, _NAMES),
    ("executions/{id}/files", "files", {"execution": "{id}"}, _NAMES),
    ("jobs", "jobs", {}, _NAMES),
    ("jobs/export/revisions", "revisions", {"job": "export"}, _NUMBERS),
    ("tasks", "tasks", {}, _NAMES),
    ("queues", "queues", {}, _NAMES),
    ("calendars", "calendars", {}, _NAMES),
    ("calendars/days/revisions", "calendar_revisions", {"calendar": "days"}, _NUMBERS),
    ("schedules", "schedules", {}, _NAMES),
    ("schedules/nightly/revisions", "schedule_revisions", {"schedule": "{schedule}"}, _NUMBERS),
    ("schedules/nightly/occurrences", "occurrences", {"schedule": "{schedule}"}, _MOMENTS),
)


def test_lists_reject_forged_cursors(any_api: ApiDriver, ids: dict[str, str]) -> None:
    described = any_api.client.get("/openapi.json").json["paths"].values()
    paged = [
        path_item
        for path_item in described
        if "cursor" in {parameter["name"] for parameter in path_item.get("get", {}).get("parameters", ())}
    ]
    assert len(paged) == len(_LISTS), "a list is missing here"
    for path, name, filters, keys in _LISTS:
        filter_values = {key: value.format(**ids) for key, value in filters.items()}
        for key in keys:
            url = f"/api/v1/{path.format(**ids)}"
            response = any_api.client.get(url, query_string={"cursor": _forge_cursor(name, filter_values, key)})
            assert (response.status_code, response.json["code"]) == (422, "invalid_cursor"), (url, key)


@pytest.mark.parametrize(("path", "name"), [("executions/cancel", "cancel"), ("dead-letters/discard", "dead-letters")])
def test_bulk_actions_reject_forged_cursors(any_api: ApiDriver, ids: dict[str, str], path: str, name: str) -> None:
    for key in _BOOKMARKS:
        forged = _forge_cursor(name, {}, key.format(**ids) if "{" in key else key)
        response = any_api.client.post(f"/api/v1/{path}", json={"all": True, "cursor": forged})
        assert (response.status_code, response.json["code"]) == (422, "invalid_cursor"), key
