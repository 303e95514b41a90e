"""Query plans: the queries of every relay turn read from an index alone, however long the history is (SQLite)."""

from typing import Any

import sqlalchemy as sa

from jobworker.domain.executions.execution import ExecutionState
from jobworker.store import queues
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation, dead_letters, dispatch, due_executions, executions, limit_usage
from jobworker.store.executions.execution_filters import ExecutionFilters, build_conditions, list_ids
from jobworker.store.executions.limit_usage import LimitedExecution, QueueBacklog
from jobworker.store.schedules import beat_entries, due_schedules, schedule_queries
from jobworker.store.workflows import batches, dependency_rows, trigger_rows
from tests.conformance.factories import insert_executions, make_execution
from tests.conftest import NOW

_NOOP_BACKLOG, _TWO_TASKS_BACKLOG, _OTHER_BACKLOG = (
    QueueBacklog("default", tasks) for tasks in (["noop"], ["noop", "other"], ["a"])
)


def _list_plans(database: Database, run_query: object) -> list[str]:
    statements: list[tuple[str, object]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        statements.append((statement, parameters))

    sa.event.listen(database._writer, "before_cursor_execute", note)
    with database.write() as connection:
        run_query(connection)  # type: ignore[operator]
    sa.event.remove(database._writer, "before_cursor_execute", note)
    with database.read() as connection:
        return [
            row[3]
            for statement, parameters in statements
            if statement.lstrip().startswith(("SELECT", "WITH", "UPDATE", "DELETE"))
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)  # type: ignore[arg-type]
        ]


def test_list_ready_reads_in_index_order(sqlite_database: Database) -> None:
    plan = _list_plans(sqlite_database, lambda connection: dispatch.list_ready(connection, _TWO_TASKS_BACKLOG, 10))
    assert plan == ["SEARCH executions USING INDEX ix_executions_ready (queue=? AND priority>? AND priority<?)"]
    with sqlite_database.write() as connection:
        insert_executions(connection, make_execution(priority=3))
    overtaken = _list_plans(
        sqlite_database, lambda connection: dispatch.list_overtaken(connection, _OTHER_BACKLOG, 5, NOW, 1)
    )
    assert overtaken == [
        "SEARCH executions USING INDEX ix_executions_ready (queue=?)",
        *["SEARCH executions USING INDEX ix_executions_ready (queue=? AND priority=? AND due_at<?)"] * 2,
    ]


def test_limit_keys_are_found_by_index_steps(sqlite_database: Database) -> None:
    plan = _list_plans(sqlite_database, lambda connection: limit_usage.list_heads(connection, _NOOP_BACKLOG, "", 10))
    steps = [step for step in plan if "ix_executions" in step]
    assert steps == ["SEARCH executions USING INDEX ix_executions_limited (queue=? AND limit_key>?)"] * 2
    assert not [step for step in plan if "TEMP B-TREE" in step or "SCAN executions" in step]


def test_list_by_limit_key_reads_in_index_order(sqlite_database: Database) -> None:
    line = _list_plans(
        sqlite_database, lambda connection: limit_usage.list_by_limit_key(connection, _NOOP_BACKLOG, "key", 10)
    )
    assert line == ["SEARCH executions USING INDEX ix_executions_limited (queue=? AND limit_key=?)"]
    head = LimitedExecution("key", "id", 5, NOW)
    overtaken = _list_plans(
        sqlite_database, lambda connection: limit_usage.get_overtaken(connection, _OTHER_BACKLOG, head, NOW)
    )
    priority_by_priority = "(queue=? AND limit_key=? AND priority=? AND due_at<?)"
    assert overtaken == [f"SEARCH executions USING INDEX ix_executions_limited {priority_by_priority}"] * 5


def test_slot_holders_are_counted_from_their_index(sqlite_database: Database) -> None:
    held = _list_plans(sqlite_database, limit_usage.count_held_slots)
    assert held == ["SEARCH executions USING INDEX ix_executions_holding (concurrency_key>?)"]
    ahead = _list_plans(sqlite_database, lambda connection: limit_usage.count_published(connection, {"key"}))
    assert ahead == ["SEARCH executions USING INDEX ix_executions_ahead (rate_key>?)"]
    plans = _list_plans(sqlite_database, lambda connection: limit_usage.list_slot_holders(connection, "job/key", 5))
    assert plans == ["SEARCH executions USING INDEX ix_executions_holding (concurrency_key=?)"]


def test_find_ready_queues_takes_one_step_in_each_index(sqlite_database: Database) -> None:
    plan = _list_plans(sqlite_database, lambda connection: queues.find_ready(connection, ["default", "mail"]))
    searched = [step.partition(" (queue=?")[0] for step in plan if "executions" in step]
    assert searched == [f"SEARCH executions USING INDEX ix_executions_{suffix}" for suffix in ("ready", "limited")]
    paused = _list_plans(sqlite_database, lambda connection: queues.find_paused(connection, ["default", "mail"]))
    assert paused == ["SEARCH queues USING INDEX sqlite_autoindex_queues_1 (name=?)"]
    assert _list_plans(sqlite_database, queues.has_paused) == ["SCAN queues USING INDEX ix_queues_paused"]
    published = _list_plans(sqlite_database, queues.list_paused_published)
    assert published[0] == "SEARCH queues USING INDEX sqlite_autoindex_queues_1 (name=?)"
    assert any("executions USING INDEX ix_executions_published" in step for step in published), published
    after = _list_plans(sqlite_database, lambda connection: queues.list_paused_after(connection, "mail", 10))
    assert after == ["SEARCH queues USING INDEX ix_queues_paused (name>?)"]


def test_backlogs_are_read_from_their_indexes(sqlite_database: Database) -> None:
    backlog = _list_plans(sqlite_database, executions.get_backlogs)
    assert [step.partition(" (")[0].partition(" ")[2] for step in backlog] == [
        f"executions USING INDEX ix_executions_{suffix}" for suffix in ("ready", "limited")
    ]
    in_queue = _list_plans(sqlite_database, lambda connection: executions.get_queue_backlog(connection, "default"))
    assert [step.partition(" (queue=?")[0] for step in in_queue] == [
        f"SEARCH executions USING INDEX ix_executions_{suffix}" for suffix in ("ready", "limited")
    ]


def test_unused_queues_are_found_without_reading_the_backlog(sqlite_database: Database) -> None:
    by_queue = [
        f"SEARCH executions USING INDEX ix_executions_{suffix} (queue=?" for suffix in ("ready", "limited", "held_back")
    ]
    # Published executions are bounded by the feed, running executions by the slots of the workers.
    bounded = [
        "SEARCH executions USING INDEX ix_executions_published (dispatched_at>?)",
        "SCAN executions USING INDEX ix_executions_running",
    ]

    def round(connection: sa.Connection) -> None:
        queues.delete_unused(connection, ["default"], NOW, NOW, 10)

    for ask, count in ((round, 3), (lambda connection: queues.list_uses(connection, "mail"), 1)):
        steps = [step for step in _list_plans(sqlite_database, ask) if "executions" in step]
        assert len(steps) == count * 5
        assert all(step.startswith(like) for step, like in zip(steps, [*by_queue, *bounded] * count, strict=True))


def test_beat_entries_are_read_in_index_order(sqlite_database: Database) -> None:
    revisions = [
        "CORRELATED SCALAR SUBQUERY 1",
        "SEARCH schedule_calendars USING COVERING INDEX ix_schedule_calendars_schedule_id (schedule_id=?)",
        "SEARCH calendars USING INDEX sqlite_autoindex_calendars_1 (name=?)",
    ]
    changed = _list_plans(sqlite_database, lambda connection: beat_entries.list_changed(connection, NOW, 10))
    assert changed == ["SEARCH job_schedules USING INDEX ix_job_schedules_changed_at (changed_at>?)", *revisions]
    all_of_them = _list_plans(sqlite_database, lambda connection: beat_entries.list_after(connection, "id", 10))
    assert all_of_them == ["SEARCH job_schedules USING INDEX sqlite_autoindex_job_schedules_1 (id>?)", *revisions]
    some = _list_plans(sqlite_database, lambda connection: beat_entries.get_by_ids(connection, ["a", "b"]))
    assert some == ["SEARCH job_schedules USING INDEX sqlite_autoindex_job_schedules_1 (id=?)", *revisions]


def test_executions_of_schedule_are_found_through_occurrences(sqlite_database: Database) -> None:
    filters = ExecutionFilters(schedule_id="id")
    plan = _list_plans(sqlite_database, lambda connection: executions.list_page(connection, filters))
    assert "SEARCH occurrences USING PRIMARY KEY (schedule_id=?)" in plan
    assert not [step for step in plan if step.startswith("SCAN executions")]


def test_postgresql_plans_use_the_same_indexes(postgres_url: str) -> None:
    database = Database(postgres_url)
    queries = {
        "ix_executions_limited": lambda connection: limit_usage.list_heads(connection, _NOOP_BACKLOG, "", 10),
        "ix_executions_holding": limit_usage.count_held_slots,
        "ix_executions_ahead": lambda connection: limit_usage.count_published(connection, {"key"}),
        "ix_executions_ready": lambda connection: dispatch.list_ready(connection, _NOOP_BACKLOG, 10),
        "ix_queues_paused": queues.has_paused,
        "ix_executions_held_back": lambda connection: queues.list_uses(connection, "mail"),
    }
    try:
        for index, run_query in queries.items():
            assert index in str(_list_plans_on_postgresql(database, run_query)), index
    finally:
        database.dispose()


def _list_plans_on_postgresql(database: Database, run_query: object) -> list[str]:
    plans: list[str] = []

    def explain(connection: sa.Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            rows = connection.connection.cursor().execute(f"EXPLAIN {statement}", parameters)
            plans.extend(row[0] for row in rows)

    with database.read() as connection:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        sa.event.listen(database._reader, "before_cursor_execute", explain)
        run_query(connection)  # type: ignore[operator]
    sa.event.remove(database._reader, "before_cursor_execute", explain)
    return plans


def test_next_due_execution_is_the_first_index_entry(sqlite_database: Database) -> None:
    plan = _list_plans(sqlite_database, due_executions.get_next_due)
    assert plan == [
        "SCAN executions USING INDEX ix_executions_due",
        "SEARCH executions USING INDEX ix_executions_expiring (expires_at>?)",
    ]


def test_deadlines_and_dead_letters_are_read_from_their_indexes(sqlite_database: Database) -> None:
    late = _list_plans(sqlite_database, lambda connection: due_executions.expire_executions(connection, NOW, 10))
    assert late == ["SEARCH executions USING INDEX ix_executions_expiring (expires_at>? AND expires_at<?)"]
    index = "USING INDEX ix_executions_dead_letter"
    for filters, plan in (
        (ExecutionFilters(), f"SCAN executions {index}"),
        (ExecutionFilters(queue="mail", error_type="KeyError"), f"SCAN executions {index}"),
        (ExecutionFilters(job="send"), f"SEARCH executions {index}_job (job=?)"),
        (
            ExecutionFilters(job="send", state=ExecutionState.FAILED, ended_after=NOW),
            f"SEARCH executions {index}_job (job=?)",
        ),
        (ExecutionFilters(fingerprint="f"), f"SEARCH executions {index}_fingerprint (fingerprint=?)"),
    ):
        where = [dead_letters.IS_OPEN, *build_conditions(filters)]
        assert _list_plans(
            sqlite_database, lambda connection, filters=filters: dead_letters.list_page(connection, filters)
        ) == [plan]
        assert _list_plans(sqlite_database, lambda connection, where=where: list_ids(connection, where, None, 10)) == [
            plan
        ]
    grouped = _list_plans(sqlite_database, dead_letters.list_groups)[0]
    assert grouped == "SCAN executions USING INDEX ix_executions_dead_letter_fingerprint"
    reruns = _list_plans(
        sqlite_database, lambda connection: executions.list_page(connection, ExecutionFilters(rerun_of="x"))
    )
    assert reruns == ["SEARCH executions USING INDEX ix_executions_rerun_of (rerun_of=?)"]


def test_published_running_and_cancel_requests_are_read_from_their_indexes(sqlite_database: Database) -> None:
    published = _list_plans(sqlite_database, lambda connection: dispatch.list_published_before(connection, NOW, 10))
    assert published == ["SEARCH executions USING INDEX ix_executions_published (dispatched_at>? AND dispatched_at<?)"]
    running = _list_plans(sqlite_database, lambda connection: dispatch.list_running(connection, "worker"))
    assert running == ["SEARCH executions USING INDEX ix_executions_running (worker=?)"]
    cancelled = _list_plans(
        sqlite_database, lambda connection: cancellation.list_queued_cancel_requests(connection, 10)
    )
    assert cancelled == ["SCAN executions USING INDEX ix_executions_cancel"]
    stopped = _list_plans(sqlite_database, lambda connection: cancellation.list_started_cancel_requests(connection, 10))
    assert stopped == ["SCAN executions USING INDEX ix_executions_stop"]


def test_last_success_is_the_first_index_entry(sqlite_database: Database) -> None:
    plan = _list_plans(sqlite_database, lambda connection: executions.get_last_success(connection, "job", "id"))
    assert plan == ["SEARCH executions USING INDEX ix_executions_succeeded (job=? AND id<?)"]


def test_unresolved_dependents_are_found_through_indexes(sqlite_database: Database) -> None:
    waiting = _list_plans(
        sqlite_database, lambda connection: dependency_rows.list_unresolved(connection, ["p", "q"], 10)
    )
    assert waiting == ["SEARCH dependencies USING INDEX ix_dependencies_unsettled (parent_id=?)"]
    started = _list_plans(sqlite_database, lambda connection: trigger_rows.list_after(connection, ["a", "b"]))
    assert started[0] == "SEARCH job_triggers USING PRIMARY KEY (after=?)"
    swept = _list_plans(sqlite_database, lambda connection: dependency_rows.list_parents_after(connection, "p", 10))
    assert swept == ["SEARCH dependencies USING INDEX ix_dependencies_unsettled (parent_id>?)"]


def test_batch_states_are_counted_from_an_index(sqlite_database: Database) -> None:
    counted = _list_plans(sqlite_database, lambda connection: batches.count_by_state(connection, ["b"]))
    assert counted == ["SEARCH executions USING COVERING INDEX ix_executions_batch_state (batch_id=?)"]
    over = _list_plans(sqlite_database, lambda connection: batches.has_unfinished(connection, "b"))
    assert over == ["SEARCH executions USING COVERING INDEX ix_executions_batch_state (batch_id=? AND state=?)"]
    cancelling = _list_plans(sqlite_database, batches.list_cancelling)
    assert cancelling == [
        "SCAN batches USING INDEX ix_batches_cancelling",
        "CORRELATED SCALAR SUBQUERY 1",
        "SEARCH executions USING INDEX ix_executions_batch_state (batch_id=?)",
    ]
    opened = _list_plans(sqlite_database, lambda connection: batches.list_open_after(connection, "b", 10))
    assert opened == ["SEARCH batches USING INDEX ix_batches_open (id>?)"]


def test_due_schedules_are_read_from_their_index(sqlite_database: Database) -> None:
    index = "job_schedules USING INDEX ix_job_schedules_next_at"
    due = _list_plans(sqlite_database, lambda connection: due_schedules.list_due(connection, NOW, 10))
    assert due == [f"SEARCH {index} (next_at>? AND next_at<?)"]
    upcoming = _list_plans(
        sqlite_database, lambda connection: due_schedules.list_upcoming(connection, (NOW, ""), NOW, 10)
    )
    assert [index in step for step in upcoming] == [True]
    after = _list_plans(sqlite_database, lambda connection: due_schedules.get_next_due(connection, NOW))
    assert after == ["SEARCH job_schedules USING INDEX ix_job_schedules_next_at (next_at>?)"]
    over = _list_plans(sqlite_database, lambda connection: due_schedules.list_ended_pauses(connection, NOW, 10))
    assert ["ix_job_schedules_paused_until" in step for step in over] == [True]


def test_unfinished_executions_of_schedule_are_read_from_their_index(sqlite_database: Database) -> None:
    index = "executions USING INDEX ix_executions_schedule_id (schedule_id=?)"
    due = _list_plans(sqlite_database, lambda connection: due_schedules.get_many(connection, ["a", "b"]))
    assert f"SEARCH {index}" in due
    assert not [step for step in due if step.startswith("SCAN executions")]
    unfinished = _list_plans(
        sqlite_database, lambda connection: due_schedules.list_unfinished_executions(connection, "a")
    )
    assert unfinished == [f"SEARCH {index}"]


def test_overdue_schedules_are_read_in_index_order(sqlite_database: Database) -> None:
    by_index = ["SEARCH job_schedules USING INDEX ix_job_schedules_next_at (next_at>? AND next_at<?)"]
    assert (
        _list_plans(sqlite_database, lambda connection: schedule_queries.list_overdue(connection, NOW, 10)) == by_index
    )
    assert _list_plans(sqlite_database, lambda connection: schedule_queries.count_overdue(connection, NOW)) == by_index
