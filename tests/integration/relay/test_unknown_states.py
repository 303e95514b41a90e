"""Rows with a state or condition that this version does not know: each is noted and passed over."""

from collections.abc import Sequence
from dataclasses import asdict

import pytest
import sqlalchemy as sa

from jobworker.domain.admission import Submission
from jobworker.domain.errors import UnreadableRow
from jobworker.domain.execution import State
from jobworker.store import (
    batches,
    dependencies,
    filters,
    history,
    progress,
    schema,
    settling,
    story,
    triggers,
    unique_keys,
    unreadable,
)
from jobworker.store.unique_keys import Claim
from tests.integration.relay.conftest import World
from tests.integration.relay.test_corrupt_rows import Running


def spoil_members_of_enums(running: Running) -> tuple[str, Sequence[str], Sequence[str]]:
    """Return a batch, its two executions (the first has a state that does not exist), and a dependent of each."""
    house, database = running.executions, running.driver.database
    house.define_job("report", policies={"trigger_after": [{"job": each, "on": "any"} for each in ("extract", "load")]})
    batch, [bad, good] = house.submit_batch(Submission(job="extract"), Submission(job="extract"))
    after = [house.submit("strict", parameters={"rows": 1}, depends_on=(each,)) for each in (bad, good)]
    claim = Claim("key", bad, None, None, running.driver.clock.now())
    with database.write() as connection:
        connection.execute(schema.unique_keys.insert().values(**asdict(claim)))
        connection.execute(
            sa.update(schema.executions).values(schedule_id="s").where(schema.executions.c.job == "extract")
        )
    running.corrupt_column(schema.executions, "state", "Lost", id=bad)
    running.corrupt_column(schema.transitions, "state", "Lost", execution_id=bad)
    running.corrupt_column(schema.dependencies, "condition", "maybe", execution_id=after[0])
    running.corrupt_column(schema.job_triggers, "condition", "maybe", job="report", after="load")
    return batch, [bad, good], after


def test_a_value_of_no_enum_is_noted_and_keeps_no_other_row_from_being_read(
    sqlite_world: World, redis_url: str
) -> None:
    running = Running(sqlite_world, redis_url)
    batch, [bad, good], after = spoil_members_of_enums(running)
    claim = Claim("key", good, None, None, running.driver.clock.now())
    with running.driver.database.write() as connection:
        assert history.known(connection, [bad, good]).keys() == {good}
        assert progress.present(connection, [bad, good]).keys() == {good}
        assert [row.id for row in dependencies.ended(connection, [bad, good])] == []
        with pytest.raises(UnreadableRow):
            dependencies.lock_parents(connection, [bad, good])
        assert [edge.execution_id for edge in dependencies.unsettled(connection, [bad, good], 10)] == [after[1]]
        assert [edge.execution_id for edge in dependencies.unsettled_of(connection, after)] == [after[1]]
        assert dependencies.of(connection, after[0]).items == []
        assert len(dependencies.of(connection, after[1]).items) == 1
        assert [row.trigger.job for row in triggers.after(connection, ["extract", "load"])] == ["extract"]
        assert filters.count(connection, [schema.executions.c.job == "extract"], None) == {State.QUEUED: 1}
        assert batches.counts(connection, [batch]) == {batch: {State.QUEUED: 1}}
        assert [row.execution_id for row in batches.steps(connection, batch)] == [good]
        assert story.transitions(connection, bad) == []
        assert unique_keys.take(connection, claim) is None
        connection.execute(sa.update(schema.executions).values(batch_id=None))
        assert settling.unfinished(connection, "s") == [(good, State.QUEUED)]
    assert unreadable.found.get_problems().keys() >= {
        f"standing of execution {bad}",
        f"progress of execution {bad}",
        f"state of execution {bad}",
        f"state 'Lost' of executions of batch {batch}",
        "state 'Lost' of executions",
        f"dependency of execution {after[0]} on {bad}",
        "condition of the trigger of job report after load",
    }
    running.run_turns(2)
    assert f"state of execution {bad}" in running.read_problems()
