"""Driver for conformance tests: a database with jobs, whose executions are submitted and end as in production."""

import itertools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.domain.executions import events
from jobworker.domain.executions.events import Event, EventKind
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs.definition import JobDefinition, JobOwner
from jobworker.domain.jobs.parameters import VARIADIC, Parameter
from jobworker.domain.submissions.submission import Submission
from jobworker.relay.event_recorder import record_events
from jobworker.services.executions import executions
from jobworker.services.submissions import submission
from jobworker.services.workflows import resolution
from jobworker.services.workflows.batch_completion import BatchOptions
from jobworker.store import jobs, tasks
from jobworker.store.database.database import Database
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.tables import core
from tests.conformance.factories import NOW, make_task

#: Kinds of reports that end an execution; each name is the state after the report.
SUCCEEDED, FAILED, TIMED_OUT, CANCELLED = (
    EventKind.SUCCEEDED,
    EventKind.FAILED,
    EventKind.TIMED_OUT,
    EventKind.CANCELLED,
)

_JOB_NAMES = ("extract", "load", "report")


class ExecutionDriver:
    """Driver that submits executions and ends them one report at a time."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = ManualClock(NOW)
        self._numbers = itertools.count(1)
        with database.write() as connection:
            tasks.upsert(connection, make_task("tasks.any", VARIADIC))
            tasks.upsert(connection, make_task("tasks.strict", Parameter("rows", "integer")))
            for name in _JOB_NAMES:
                jobs.upsert(connection, JobDefinition(name, "tasks.any"), JobOwner.API, "ann", NOW)
            jobs.upsert(connection, JobDefinition("strict", "tasks.strict"), JobOwner.API, "ann", NOW)

    def define_job(self, name: str, **fields: Any) -> None:
        """Create or change a job definition."""
        policies = {"retry": {"max_attempts": None}, **fields.pop("policies", {})}
        with self.database.write() as connection:
            definition = JobDefinition(name, fields.pop("task", "tasks.any"), policies=policies, **fields)
            jobs.upsert(connection, definition, JobOwner.API, "ann", NOW)

    def submit(self, job: str = "load", **fields: Any) -> str:
        """Submit an execution and return its id."""
        row, _ = submission.submit(self.database, self.clock, Submission(job=job, **fields), "ann")
        return row.id

    def submit_batch(self, *submissions: Submission, **options: Any) -> tuple[str, Sequence[str]]:
        """Submit a batch and return its id and the ids of its executions."""
        accepted = submission.submit_batch(
            self.database, self.clock, submissions, "ann", options=BatchOptions(**options)
        )
        assert accepted.batch_id
        return accepted.batch_id, accepted.execution_ids

    def report_end(self, execution: str, kind: EventKind = SUCCEEDED, **data: Any) -> None:
        """Record a worker's report of the end of an execution."""
        with self.database.write() as connection:
            self.record_report(connection, execution, kind, **data)

    def record_report(
        self, connection: sa.Connection, execution: str, kind: EventKind = SUCCEEDED, **data: Any
    ) -> None:
        """Record a worker's report within the transaction of the caller."""
        event_id = events.format_stream_id((int(NOW.timestamp() * 1000) + next(self._numbers), 0))
        error = {"error": {"type": "E", "message": "m", "traceback": None}} if kind in (FAILED, TIMED_OUT) else {}
        recorded_events = record_events(connection, [Event(event_id, kind, execution, 1, {**error, **data})])
        resolution.resolve_dependents(connection, recorded_events.ended, self.clock.now())

    def get(self, execution: str) -> ExecutionRow:
        """Return the row of an execution."""
        return executions.get(self.database, execution)

    def get_state(self, execution: str) -> ExecutionState:
        """Return the state of an execution."""
        return self.get(execution).state

    def list_states(self, execution: str) -> list[str]:
        """Return the states of an execution's transitions in order."""
        return [row.state.value for row in executions.list_transitions(self.database, execution).items]

    def list_executions(self, job: str) -> list[ExecutionRow]:
        """Return the executions of a job, first to last."""
        with self.database.read() as connection:
            query = sa.select(core.executions.c.id).where(core.executions.c.job == job)
            ids = sorted(connection.scalars(query))
        return [self.get(execution_id) for execution_id in ids]

    def cancel(self, execution: str) -> ExecutionRow:
        """Cancel an execution through the service that the API uses."""
        return executions.cancel(self.database, self.clock, execution, "ann")
