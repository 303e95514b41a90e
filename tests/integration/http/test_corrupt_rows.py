"""Rows with columns that this code never writes: no endpoint fails, other rows are listed, the problem is reported."""

import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from flask.testing import FlaskClient
from sqlalchemy.dialects import postgresql

from jobworker.api.endpoints import events
from jobworker.services.executions import execution_stream
from jobworker.services.schedules import compiler
from jobworker.store.database.columns import Json
from jobworker.store.tables import core
from jobworker.store.tables.schedules import job_schedules
from tests.integration.http.conftest import ApiDriver
from tests.polling import until

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
_LIST_PATHS = {
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
_RELATED_PATHS = {
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


@pytest.fixture(autouse=True)
def _no_wait_for_late_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_LATE_LINES_SECONDS", 0.0)
    monkeypatch.setattr(execution_stream, "_LOG_TIMEOUT_SECONDS", 0.0)


@pytest.fixture
def client(any_api: ApiDriver) -> FlaskClient:
    """Client that does not check responses, because a value that is shown unchanged may have any form."""
    any_api.app.test_client_class = FlaskClient
    return any_api.app.test_client()


@pytest.fixture
def made(any_api: ApiDriver) -> dict[str, str]:
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
        one, then = {"job": name, "parameters": {"user_id": "u"}}, {"job": "export", "parameters": {"user_id": "u"}}
        response = api.client.post("/api/v1/executions/batch", json={"executions": [one], "on_complete": then})
        assert response.status_code == 202, response.json
        names["batch"] = response.json["batch_id"]
    names["queued"] = api.submit_accepted()["id"]
    return names


def _create_resource(api: ApiDriver, noun: str, body: dict[str, Any]) -> None:
    response = api.client.post(f"/api/v1/{noun}", json=body)
    assert response.status_code == 201, response.data


def _match_bad_row(table: sa.Table, names: dict[str, str]) -> Any:
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
    found = {"executions": names["bad"], "batches": names["batch"], "workers": "w1"}
    if table.name == "attempts":
        return sa.and_(table.c.execution_id == names["bad"], table.c.attempt == 1)
    return table.c.id == found[table.name]


def _get_items(response: Any) -> int:
    return len(response.json["items"]) + len(response.json.get("unreadable", ()))


@pytest.mark.parametrize(("table_name", "column"), _COLUMNS)
def test_malformed_column_does_not_fail_a_get_request(
    any_api: ApiDriver, client: FlaskClient, made: dict[str, str], table_name: str, column: str
) -> None:
    table, sqlite = core.metadata.tables[table_name], any_api.database.is_sqlite
    where = _match_bad_row(table, made)
    with any_api.database.read() as connection:
        content = connection.scalar(sa.select(table.c[column]).where(where))
    lists = [f"/api/v1/{path.format(**made)}" for path in _LIST_PATHS[table_name]]
    others = [f"/api/v1/{path.format(**made)}" for path in _RELATED_PATHS.get(table_name, ())]
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
    assert [each["name"] for each in listed["items"]] == ["export", "good"]
    [noted] = listed["unreadable"]
    assert noted["row"] == "job bad"
    assert "task" in noted["problem"]
    assert [line["row"] for line in logs if line["event"] == "row_unreadable"] == ["job bad"]
    response = any_api.client.get("/api/v1/jobs/bad")
    assert (response.status_code, response.json["code"]) == (409, "unreadable")
    assert "job bad" in any_api.client.get("/readyz").json["checks"]["content"]["detail"]
    with any_api.database.write() as connection:
        connection.execute(sa.update(jobs).where(jobs.c.name == "bad").values(definition=good))
    assert "unreadable" not in until(lambda: any_api.client.get("/api/v1/jobs").json, what="the list")
    assert "job bad" not in any_api.client.get("/readyz").json["checks"]["content"]["detail"]


#: Values that SQLite stores in a column of any type; numbers become text in a column of text.
_GARBAGE_VALUES: tuple[Any, ...] = ("garbage", b"\xff\xfe", 10**17)

#: Paths that read the tables without a JSON column, or without one that a GET request reads.
_PLAIN_COLUMN_PATHS = {
    "queues": ("queues", "queues/slow", "jobs", "executions/{queued}/why", "executions/{queued}"),
    "dependencies": ("executions/{child}/dependencies", "executions/{child}/why", "executions/{child}"),
    "transitions": ("executions/{bad}/transitions", "executions/{bad}/events"),
    "execution_logs": ("executions/{bad}/logs", "executions/{bad}/events"),
    "occurrences": ("schedules/bad/occurrences", "schedules/bad", "executions/{bad}"),
    "relay_state": ("/readyz", "executions/{queued}/why", "executions/{bad}/events"),
    "rate_buckets": ("executions/{waiting}/why",),
}


def create_rows_without_json(api: ApiDriver, names: dict[str, str]) -> None:
    """Create the rows that `_PLAIN_COLUMN_PATHS` read."""
    now = dt.datetime.now(dt.UTC)
    body = {"parameters": {"user_id": "u"}, "depends_on": [names["queued"]]}
    names["child"] = api.submit_accepted(body=body)["id"]
    names["waiting"] = api.submit_accepted(job="good", body={"parameters": {"user_id": "u"}})["id"]
    api.insert_log_line(names["bad"], 1, "line")
    api.create_queue("slow")
    with api.database.read() as connection:
        [schedule] = connection.scalars(sa.select(job_schedules.c.id).where(job_schedules.c.name == "bad"))
    api.insert_row("occurrences", schedule_id=schedule, scheduled_for=now, outcome="fired", recorded_at=now)
    api.insert_row("rate_buckets", key="good", full_at=now + dt.timedelta(days=1))
    with api.database.write() as connection:
        connection.execute(sa.update(core.relay_state).values(logged_through="1-1", turned_at=now))


@contextlib.contextmanager
def corrupt_column(api: ApiDriver, column: Any, value: Any, where: Any) -> Iterator[None]:
    """Write a value to a column of one row, as no code of this project does; for a key, to a copy of the row."""
    table = column.table
    names = [each.name for each in table.c]
    with api.database.write() as connection:
        raw = [sa.type_coerce(each, sa.types.NullType()).label(each.name) for each in table.c]
        before = dict(connection.execute(sa.select(*raw).where(where)).one()._mapping)
        # Triggers protect history tables against changes.
        query = sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table")
        for trigger in connection.scalars(query, {"table": table.name}).all():
            connection.execute(sa.text(f"DROP TRIGGER {trigger}"))
        if column.primary_key:
            values = {**before, column.name: value}
            into = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join(f':{each}' for each in names)})"
            connection.execute(sa.text(into), values)
        else:
            changed = sa.type_coerce(sa.literal(value), sa.types.NullType())
            connection.execute(sa.update(table).where(where).values({column.name: changed}))
    yield
    with api.database.write() as connection:
        if column.primary_key:
            query = sa.text(f"DELETE FROM {table.name} WHERE {column.name} = :value")
            assert connection.execute(query, {"value": value}).rowcount
        else:
            restored = sa.type_coerce(sa.literal(before[column.name]), sa.types.NullType())
            same = [sa.type_coerce(each, sa.types.NullType()) == before[each.name] for each in table.primary_key]
            assert connection.execute(sa.update(table).where(*same).values({column.name: restored})).rowcount


@pytest.mark.parametrize("table_name", [*_LIST_PATHS, *_PLAIN_COLUMN_PATHS])
def test_column_of_another_type_does_not_fail_a_get_request(api: ApiDriver, table_name: str) -> None:
    made = create_two_of_everything(api)
    create_rows_without_json(api, made)
    client = FlaskClient(api.app, api.app.response_class)
    table = core.metadata.tables[table_name]
    where = _match_bad_row(table, made)
    paths = (
        *_LIST_PATHS.get(table_name, ()),
        *_RELATED_PATHS.get(table_name, ()),
        *_PLAIN_COLUMN_PATHS.get(table_name, ()),
    )
    urls = [path if path[0] == "/" else f"/api/v1/{path.format(**made)}" for path in paths]
    problems = []
    for column in table.c:
        # For a key, a copy of the row gets the value, if the constraints permit the copy.
        unique = (table_name, column.name) in {("relay_state", "id"), ("job_schedules", "id")}
        if isinstance(column.type, Json) or unique or (column.primary_key and column.foreign_keys):
            continue
        for value in _GARBAGE_VALUES[:2] if column.type.python_type is str else _GARBAGE_VALUES:
            with corrupt_column(api, column, value, where):
                compiler._cache.clear()
                for url in (*urls, "/metrics"):
                    response = client.get(url)
                    if (response.status_code >= 500 and url != "/readyz") or b"internal_error" in response.data:
                        problems.append((column.name, value, url, response.status_code))
    assert not problems
    assert b"internal_error" not in client.get("/readyz").data


def test_unreadable_log_line_does_not_end_the_log(api: ApiDriver) -> None:
    execution = api.submit_accepted()["id"]
    for number in range(1, 6):
        api.insert_log_line(execution, number, f"line {number}")
    lines = core.execution_logs
    for seq in ("2", "3"):
        column = lines.c.seq == f"{int(seq):013}-00000"
        with api.database.write() as connection:
            wrong = sa.type_coerce(sa.literal(b"\xff"), sa.types.NullType())
            connection.execute(sa.update(lines).where(column).values(message=wrong))
    read, url = [], f"/api/v1/executions/{execution}/logs?limit=1"
    page = api.client.get(url).json
    while page["items"]:
        read += [line["message"] for line in page["items"]]
        if page["next"] is None:
            break
        page = api.client.get(f"{url}&cursor={page['next']}").json
    assert read == ["line 1", "line 4", "line 5"]
