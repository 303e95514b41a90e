"""Catalog of tasks."""

from dataclasses import replace

from jobworker.domain.jobs.parameters import Parameter
from jobworker.store import tasks
from jobworker.store.database.database import Database
from tests.conformance.factories import make_task

FORMAT = Parameter("format", "string", required=False, default="csv", choices=("csv", "json"))


def test_task_is_read_back_with_its_parameters(database: Database) -> None:
    row = make_task("tasks.export", Parameter("user_id", "string"), FORMAT)
    with database.write() as connection:
        tasks.upsert(connection, row)
        assert tasks.get(connection, "tasks.export") == row
        assert tasks.get(connection, "tasks.other") is None
        assert tasks.get_many(connection, ["tasks.export", "tasks.other"]) == {"tasks.export": row}
        assert tasks.list_names(connection) == ["tasks.export"]


def test_new_announcement_replaces_the_old(database: Database) -> None:
    with database.write() as connection:
        tasks.upsert(connection, make_task())
        tasks.upsert(connection, replace(make_task(), code_version="v2", parameters=(FORMAT,)))
        task = tasks.get(connection, make_task().name)
    assert task is not None
    assert (task.code_version, task.parameters) == ("v2", (FORMAT,))


def test_pages_list_all_tasks_by_name(database: Database) -> None:
    names = [f"tasks.t{number}" for number in range(5)]
    with database.write() as connection:
        for name in names:
            tasks.upsert(connection, make_task(name))
        first = tasks.list_page(connection, 3)
        second = tasks.list_page(connection, 3, first.next)
    assert [row.name for row in (*first.items, *second.items)] == names
    assert second.next is None
