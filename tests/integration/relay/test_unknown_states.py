"""Rows with a state or condition that this version does not know: each is reported and skipped."""

from collections.abc import Sequence
from dataclasses import asdict

import pytest
import sqlalchemy as sa

from jobworker.domain.errors import UnreadableRow
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.submissions.submission import Submission
from jobworker.store import unreadable_rows
from jobworker.store.executions import execution_filters, history, progress, timeline, unique_keys
from jobworker.store.executions.unique_keys import UniqueKeyRequest
from jobworker.store.schedules import due_schedules
from jobworker.store.tables import core
from jobworker.store.tables.dependencies import dependencies, job_triggers
from jobworker.store.workflows import batches, dependency_rows, trigger_rows
from tests.integration.relay.conftest import DispatchDriver
from tests.integration.relay.test_corrupt_rows import CorruptRowDriver


def corrupt_enum_members(running: CorruptRowDriver) -> tuple[str, Sequence[str], Sequence[str]]:
    """Return a batch, its two executions (the first has a state that does not exist), and a dependent of each."""
    execution_driver, database = running.executions, running.driver.database
    execution_driver.define_job(
        "report", policies={"trigger_after": [{"job": job, "on": "any"} for job in ("extract", "load")]}
    )
    batch, [bad, good] = execution_driver.submit_batch(Submission(job="extract"), Submission(job="extract"))
    after = [execution_driver.submit("strict", parameters={"rows": 1}, depends_on=(parent,)) for parent in (bad, good)]
    claim = UniqueKeyRequest("key", bad, None, None, running.driver.clock.now())
    with database.write() as connection:
        connection.execute(core.unique_keys.insert().values(**asdict(claim)))
        connection.execute(sa.update(core.executions).values(schedule_id="s").where(core.executions.c.job == "extract"))
    running.corrupt_column(core.executions, "state", "Lost", id=bad)
    running.corrupt_column(core.transitions, "state", "Lost", execution_id=bad)
    running.corrupt_column(dependencies, "condition", "maybe", execution_id=after[0])
    running.corrupt_column(job_triggers, "condition", "maybe", job="report", after="load")
    return batch, [bad, good], after


def test_unknown_enum_value_is_reported_and_blocks_no_other_row(sqlite_driver: DispatchDriver, redis_url: str) -> None:
    running = CorruptRowDriver(sqlite_driver, redis_url)
    batch, [bad, good], after = corrupt_enum_members(running)
    claim = UniqueKeyRequest("key", good, None, None, running.driver.clock.now())
    with running.driver.database.write() as connection:
        assert history.get_many(connection, [bad, good]).keys() == {good}
        assert progress.get_many(connection, [bad, good]).keys() == {good}
        assert [row.id for row in dependency_rows.find_ended(connection, [bad, good])] == []
        with pytest.raises(UnreadableRow):
            dependency_rows.lock_parents(connection, [bad, good])
        assert [edge.execution_id for edge in dependency_rows.list_unresolved(connection, [bad, good], 10)] == [
            after[1]
        ]
        assert [edge.execution_id for edge in dependency_rows.list_unresolved_by_child(connection, after)] == [after[1]]
        assert dependency_rows.list_parents(connection, after[0]).items == []
        assert len(dependency_rows.list_parents(connection, after[1]).items) == 1
        assert [row.trigger.job for row in trigger_rows.list_after(connection, ["extract", "load"])] == ["extract"]
        assert execution_filters.count_by_state(connection, [core.executions.c.job == "extract"], None) == {
            ExecutionState.QUEUED: 1
        }
        assert batches.count_by_state(connection, [batch]) == {batch: {ExecutionState.QUEUED: 1}}
        assert [row.execution_id for row in batches.list_steps(connection, batch)] == [good]
        assert timeline.list_all_transitions(connection, bad) == []
        assert unique_keys.acquire(connection, claim) is None
        connection.execute(sa.update(core.executions).values(batch_id=None))
        assert due_schedules.list_unfinished_executions(connection, "s") == [(good, ExecutionState.QUEUED)]
    assert unreadable_rows.problem_log.get_problems().keys() >= {
        f"state of execution {bad}",
        f"progress of execution {bad}",
        f"state of execution {bad}",
        f"state 'Lost' of executions of batch {batch}",
        "state 'Lost' of executions",
        f"dependency of execution {after[0]} on {bad}",
        "condition of the trigger of job report after load",
    }
    running.run_turns(2)
    assert f"state of execution {bad}" in running.read_problems()
