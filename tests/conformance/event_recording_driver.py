"""Driver for tests that record the reports of workers about one execution."""

import datetime as dt
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jobworker.domain.executions import events
from jobworker.domain.executions.events import EventKind
from jobworker.domain.jobs.definition import JobDefinition, JobOwner, OnWorkerLost
from jobworker.relay.event_recorder import RecordedEvents, record_events
from jobworker.store import jobs
from jobworker.store.database.database import Database
from jobworker.store.executions import dispatch, due_executions, executions, timeline
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.executions.limit_usage import QueueBacklog
from jobworker.store.executions.timeline import AttemptRow
from tests.conformance.factories import NOW, insert_executions, make_execution

SEND = JobDefinition("send", "tasks.mail.send")


class EventRecordingDriver:
    """Published execution, and the reports of workers about it in the order of the stream."""

    def __init__(self, database: Database, on_worker_lost: OnWorkerLost = OnWorkerLost.RETRY) -> None:
        self.database = database
        self._numbers = itertools.count(1)
        with database.write() as connection:
            jobs.upsert(connection, replace(SEND, on_worker_lost=on_worker_lost), JobOwner.API, "ann", NOW)
            [self.id] = insert_executions(connection, make_execution())
        self.publish_attempt()

    def publish_attempt(self) -> None:
        """Publish the next attempt."""
        with self.database.write() as connection:
            due_executions.release_due(connection, NOW + dt.timedelta(days=1), 10)
            ready_rows = dispatch.list_ready(connection, QueueBacklog("default", [SEND.task]), 10)
            dispatch.mark_published(connection, [(row.id, row.attempt, row.priority) for row in ready_rows], NOW)

    def record_event(
        self, kind: EventKind, attempt: int = 1, execution: str | None = None, **data: Any
    ) -> RecordedEvents:
        """Record one report."""
        event_id = events.format_stream_id((int(NOW.timestamp() * 1000) + next(self._numbers), 0))
        event = events.Event(event_id, kind, self.id if execution is None else execution, attempt, data)
        with self.database.write() as connection:
            return record_events(connection, [event])

    @property
    def row(self) -> ExecutionRow:
        """Current row of the execution."""
        with self.database.read() as connection:
            row = executions.get(connection, self.id)
        assert row is not None
        return row

    @property
    def attempts(self) -> Sequence[AttemptRow]:
        """Attempts of the execution."""
        with self.database.read() as connection:
            return timeline.list_attempts(connection, self.id).items

    @property
    def transitions(self) -> list[tuple[int, str, str, str | None]]:
        """List of (attempt, state, actor, reason) of each transition."""
        with self.database.read() as connection:
            return [
                (row.attempt, row.state, row.actor, row.reason)
                for row in timeline.list_all_transitions(connection, self.id)
            ]
