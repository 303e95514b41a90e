"""The catalogue of tasks, and the names of queues."""

from dataclasses import replace

from jobworker.domain.parameters import Parameter
from jobworker.store import tasks
from jobworker.store.database import Database
from tests.conformance.worlds import task

FORMAT = Parameter("format", "string", required=False, default="csv", choices=("csv", "json"))


def test_a_task_is_read_back_with_its_parameters(database: Database) -> None:
    row = task("tasks.export", Parameter("user_id", "string"), FORMAT)
    with database.write() as connection:
        tasks.put(connection, row)
        assert tasks.get(connection, "tasks.export") == row
        assert tasks.get(connection, "tasks.other") is None
        assert tasks.some(connection, ["tasks.export", "tasks.other"]) == {"tasks.export": row}
        assert tasks.names(connection) == ["tasks.export"]


def test_a_new_announcement_replaces_the_old(database: Database) -> None:
    with database.write() as connection:
        tasks.put(connection, task())
        tasks.put(connection, replace(task(), code_version="v2", parameters=(FORMAT,)))
        found = tasks.get(connection, task().name)
    assert found is not None
    assert (found.code_version, found.parameters) == ("v2", (FORMAT,))


def test_pages_walk_through_all_tasks_by_name(database: Database) -> None:
    names = [f"tasks.t{number}" for number in range(5)]
    with database.write() as connection:
        for name in names:
            tasks.put(connection, task(name))
        first = tasks.page(connection, 3)
        second = tasks.page(connection, 3, first.next)
    assert [row.name for row in (*first.items, *second.items)] == names
    assert second.next is None
