"""Rows with JSON that this code never writes: no endpoint fails, other rows are listed, the problem is reported."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from flask.testing import FlaskClient
from sqlalchemy.dialects import postgresql

from jobworker.services.schedules import compiler
from jobworker.store.database.columns import Json
from jobworker.store.tables import core
from jobworker.store.tables.schedules import job_schedules
from tests.integration.http.conftest import ApiDriver
from tests.polling import wait_until

pytestmark = pytest.mark.usefixtures("no_wait_for_late_lines")

#: Columns that no GET request reads; the relay or a POST request does.
_UNREAD_COLUMNS = {
    ("executions", name)
    for name in ("lost_attempts", "interrupted_attempts", "snoozed_attempts", "call", "log_dropped")
} | {
    ("idempotency_keys", "execution_ids"),
    ("audit", "before"),
    ("audit", "after"),
    ("job_triggers", "parameters"),
    ("relay_state", "problems"),
}

_COLUMNS = [
    pytest.param(table.name, column.name, id=f"{table.name}.{column.name}")
    for table in core.metadata.sorted_tables
    for column in table.c
    if isinstance(column.type, Json) and (table.name, column.name) not in _UNREAD_COLUMNS
]

#: Paths that read each table: lists, which must contain the other item, and the rest.
LIST_PATHS = {
    "job_definitions": ("jobs", "schedules", "executions"),
    "job_revisions": ("jobs/bad/revisions",),
    "tasks": ("tasks", "jobs", "schedules"),
    "workers": ("executions", "queues", "jobs"),
    "executions": ("executions", "dead-letters", "dead-letters?error_type=KeyError", "dead-letters/groups"),
    "attempts": ("executions/{bad}/attempts",),
    "job_schedules": ("schedules",),
    "schedule_revisions": ("schedules/bad/revisions",),
    "calendars": ("calendars", "schedules"),
    "calendar_revisions": ("calendars/bad/revisions",),
    "batches": ("batches",),
}
RELATED_PATHS = {
    "job_definitions": ("jobs/bad", "executions/{bad}/why", "executions/{bad}/changes", "jobs/bad/revisions"),
    "job_revisions": ("jobs/bad/revisions/1", "executions/{bad}/changes"),
    "tasks": ("tasks/bad", "jobs/bad"),
    "workers": ("executions/{queued}/why", "queues/default", "executions/{queued}"),
    "executions": tuple(
        f"executions/{{bad}}{part}"
        for part in ("", "/why", "/changes", "/result", "/files", "/attempts", "/dependencies", "/events")
    ),
    "job_schedules": ("schedules/bad", "schedules/bad/occurrences?upcoming=3", "schedules/bad/revisions"),
    "schedule_revisions": ("schedules/bad/revisions/1",),
    "calendars": ("calendars/bad", "calendars/bad/days?from=2026-12-24&to=2026-12-29", "schedules/bad"),
    "calendar_revisions": ("calendars/bad/revisions/1",),
    "batches": ("batches/{batch}",),
}

_DEEP_JSON = "[" * 900 + "]" * 900


_WRONG_VALUES: tuple[Any, ...] = (None, -1e30, "x", [{}], {"x": [None]})


def _generate_malformed(original: Any) -> Iterator[str]:
    """Yield JSON that differs from the original: wrong types, missing and extra members, huge and deep values."""
    yield from ("null", "0", "-1.5", "true", '"text"', "[]", "{}", "[null]", "[{}]", '[["x"]]', '{"a": {"b": []}}')
    yield from (
        _DEEP_JSON,
        '{"type": ' + _DEEP_JSON + "}",
        json.dumps("x" * 1_000_000),
        json.dumps({"name": "x" * 300_000}),
    )
    if isinstance(original, dict):
        for name in original:
            yield json.dumps({key: value for key, value in original.items() if key != name})
            for wrong in _WRONG_VALUES:
                yield json.dumps({**original, name: wrong})
        yield json.dumps({**original, "unknown": 1})


#: Values that only SQLite can store.
_INVALID_JSON: tuple[Any, ...] = (
    "",
    "no JSON",
    "{",
    '{"a": 1',
    "NaN",
    '"\\ud800"',
    "[" * 5000,
    b"\xff\x00",
    5,
    1.5,
    "\0",
)


@pytest.fixture
def client(any_api: ApiDriver) -> FlaskClient:
    """Client that does not check responses, because a value that is shown unchanged may have any form."""
    any_api.app.test_client_class = FlaskClient
    return any_api.app.test_client()


@pytest.fixture
def ids(any_api: ApiDriver) -> dict[str, str]:
    return create_two_of_everything(any_api)


def create_two_of_everything(api: ApiDriver) -> dict[str, str]:
    """Create two items of every kind; one of each kind is named `bad`."""
    names = {}
    api.insert_worker()
    with api.database.write() as connection:
        task = connection.execute(sa.select(core.tasks)).mappings().one()
        connection.execute(sa.insert(core.tasks).values({**task, "name": "bad"}))
    for name in ("bad", "good"):
        job = {"name": name, "task": "bad" if name == "bad" else task["name"], "retry": {"max_attempts": 3}}
        job |= {"concurrency": {"limit": 1}, "rate_limit": {"limit": 1, "per": 60}, "tags": ["x"]}
        _create_resource(api, "jobs", job)
        _create_resource(api, "calendars", {"name": name, "kind": "business", "holidays": [{"country": "DE"}]})
        rule = {"kind": "daily", "time": "02:00"}
        schedule = {"name": name, "job": "export", "rule": rule, "zone": "UTC", "require": [name]}
        _create_resource(api, "schedules", {**schedule, "parameters": {"user_id": "u"}})
        before = api.submit_accepted(job=name)["id"]
        api.enter_state(before, 1, "Succeeded", result={"n": 1})
        names[name] = api.submit_accepted(
            job=name, body={"parameters": {"user_id": "u"}, "retry": {"max_attempts": 2}}
        )["id"]
        failure = {"type": "KeyError", "message": "x", "traceback": "t"}
        options = {"error": failure, "dead_letter": "open", "fingerprint": name, "finished_at": task["updated_at"]}
        api.enter_state(names[name], 1, "Failed", **options)
        for attempt in (1, 2):
            values = {"execution_id": names[name], "attempt": attempt, "state": "Failed", "error": failure}
            api.insert_row("attempts", **values, started_at=task["updated_at"])
        member, then = {"job": name, "parameters": {"user_id": "u"}}, {"job": "export", "parameters": {"user_id": "u"}}
        response = api.client.post("/api/v1/executions/batch", json={"executions": [member], "on_complete": then})
        assert response.status_code == 202, response.json
        names["batch"] = response.json["batch_id"]
    names["queued"] = api.submit_accepted()["id"]
    return names


def _create_resource(api: ApiDriver, noun: str, body: dict[str, Any]) -> None:
    response = api.client.post(f"/api/v1/{noun}", json=body)
    assert response.status_code == 201, response.data


def match_bad_row(table: sa.Table, names: dict[str, str]) -> Any:
    """Return the condition that selects the row that is made unreadable."""
    keys = {"job_definitions": "name", "tasks": "name", "job_schedules": "name", "calendars": "name"}
    keys |= {"job_revisions": "job", "calendar_revisions": "calendar"}
    if table.name in keys:
        return table.c[keys[table.name]] == "bad"
    if table.name in ("schedule_revisions", "occurrences"):
        return (
            table.c.schedule_id == sa.select(job_schedules.c.id).where(job_schedules.c.name == "bad").scalar_subquery()
        )
    if table.name in ("transitions", "execution_logs"):
        last = table.c.state == "Failed" if table.name == "transitions" else sa.true()
        return sa.and_(table.c.execution_id == names["bad"], last)
    single: dict[str, tuple[str, Any]] = {"queues": ("name", "slow"), "rate_buckets": ("key", "good")}
    single |= {"relay_state": ("id", 1), "dependencies": ("execution_id", names.get("child"))}
    if table.name in single:
        name, value = single[table.name]
        return table.c[name] == value
    ids = {"executions": names["bad"], "batches": names["batch"], "workers": "w1"}
    if table.name == "attempts":
        return sa.and_(table.c.execution_id == names["bad"], table.c.attempt == 1)
    return table.c.id == ids[table.name]


def _get_items(response: Any) -> int:
    return len(response.json["items"]) + len(response.json.get("unreadable", ()))


@pytest.mark.parametrize(("table_name", "column"), _COLUMNS)
def test_malformed_column_does_not_fail_a_get_request(
    any_api: ApiDriver, client: FlaskClient, ids: dict[str, str], table_name: str, column: str
) -> None:
    table, sqlite = core.metadata.tables[table_name], any_api.database.is_sqlite
    where = match_bad_row(table, ids)
    with any_api.database.read() as connection:
        content = connection.scalar(sa.select(table.c[column]).where(where))
    lists = [f"/api/v1/{path.format(**ids)}" for path in LIST_PATHS[table_name]]
    others = [f"/api/v1/{path.format(**ids)}" for path in RELATED_PATHS.get(table_name, ())]
    numbers = {url: _get_items(client.get(url)) for url in lists}
    for value in (*_generate_malformed(content), *(_INVALID_JSON if sqlite else ())):
        raw = sa.literal(value) if sqlite else sa.cast(sa.literal(value, sa.Text), postgresql.JSONB)
        with any_api.database.write() as connection:
            connection.execute(sa.update(table).where(where).values({column: sa.type_coerce(raw, sa.types.NullType())}))
        compiler._cache.clear()
        for url in lists:
            response = client.get(url)
            assert response.status_code == 200, (url, str(value)[:100], response.json)
            if "error_type" not in url:
                assert _get_items(response) >= numbers[url], (url, str(value)[:100], response.json)
        for url in others:
            response = client.get(url)
            assert response.status_code < 500, (url, str(value)[:100], response.data[:300])


def test_unreadable_row_is_logged_once_and_reported_by_readyz(any_api: ApiDriver) -> None:
    for name in ("bad", "good"):
        _create_resource(any_api, "jobs", {"name": name, "task": "tasks.exports.export"})
    jobs = core.job_definitions
    with any_api.database.write() as connection:
        good = connection.scalar(sa.select(jobs.c.definition).where(jobs.c.name == "bad"))
        connection.execute(sa.update(jobs).where(jobs.c.name == "bad").values(definition={"name": "bad"}))
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            listed = any_api.client.get("/api/v1/jobs").json
    assert [job["name"] for job in listed["items"]] == ["export", "good"]
    [noted] = listed["unreadable"]
    assert noted["row"] == "job bad"
    assert "task" in noted["problem"]
    assert [line["row"] for line in logs if line["event"] == "row_unreadable"] == ["job bad"]
    response = any_api.client.get("/api/v1/jobs/bad")
    assert (response.status_code, response.json["code"]) == (409, "unreadable")
    assert "job bad" in any_api.client.get("/readyz").json["checks"]["content"]["detail"]
    with any_api.database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.name == "bad").values(definition=good))
    assert "unreadable" not in wait_until(lambda: any_api.client.get("/api/v1/jobs").json, what="the list")
    assert "job bad" not in any_api.client.get("/readyz").json["checks"]["content"]["detail"]
