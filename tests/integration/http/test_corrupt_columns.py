"""Columns with values of another type than theirs: no GET request fails."""

import contextlib
import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from jobworker.services.schedules import compiler
from jobworker.store.database.columns import Json
from jobworker.store.tables import core
from jobworker.store.tables.schedules import job_schedules
from tests.integration.http.conftest import ApiDriver
from tests.integration.http.test_corrupt_rows import LIST_PATHS, RELATED_PATHS, create_two_of_everything, match_bad_row

pytestmark = pytest.mark.usefixtures("no_wait_for_late_lines")

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
    names = [table_column.name for table_column in table.c]
    with api.database.write() as connection:
        raw = [sa.type_coerce(table_column, sa.types.NullType()).label(table_column.name) for table_column in table.c]
        before = dict(connection.execute(sa.select(*raw).where(where)).one()._mapping)
        # Triggers protect history tables against changes.
        query = sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table")
        for trigger in connection.scalars(query, {"table": table.name}).all():
            connection.execute(sa.text(f"DROP TRIGGER {trigger}"))
        if column.primary_key:
            values = {**before, column.name: value}
            into = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"
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
            same = [
                sa.type_coerce(key_column, sa.types.NullType()) == before[key_column.name]
                for key_column in table.primary_key
            ]
            assert connection.execute(sa.update(table).where(*same).values({column.name: restored})).rowcount


@pytest.mark.parametrize("table_name", [*LIST_PATHS, *_PLAIN_COLUMN_PATHS])
def test_column_of_another_type_does_not_fail_a_get_request(api: ApiDriver, table_name: str) -> None:
    ids = create_two_of_everything(api)
    create_rows_without_json(api, ids)
    client = FlaskClient(api.app, api.app.response_class)
    table = core.metadata.tables[table_name]
    where = match_bad_row(table, ids)
    paths = (
        *LIST_PATHS.get(table_name, ()),
        *RELATED_PATHS.get(table_name, ()),
        *_PLAIN_COLUMN_PATHS.get(table_name, ()),
    )
    urls = [path if path[0] == "/" else f"/api/v1/{path.format(**ids)}" for path in paths]
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
