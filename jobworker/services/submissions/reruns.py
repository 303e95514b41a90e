"""Running an execution again, as another one: with the same parameters, or some of them changed.

The new execution is of the job as it is defined now, and what it may be limited by is checked like a submission's.
It keeps what was said for this execution alone: its own limits and policies, a queue or priority that were not those
of the job, the correlation id, and the occurrence of a schedule that it stands for. It is of no batch.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from jobworker.domain.errors import JobWorkerError, UniqueKeyConflict
from jobworker.domain.jobs.admission import Submission
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.json import merge_patch
from jobworker.services.bulk.actions import BulkFailure
from jobworker.services.submissions import preparation, uniqueness
from jobworker.services.submissions.preparation import JobCatalog
from jobworker.services.workflows import resolution
from jobworker.store import jobs
from jobworker.store.executions import dependency_rows, executions
from jobworker.store.executions.executions import ExecutionRow, NewExecution


@dataclass(slots=True)
class Rerunner:
    """Prepares reruns at the moment `now`, `rate` of them due each second beginning at `next_due` (None: all at once).

    `patch` is a JSON merge patch for the parameters of each.
    """

    now: dt.datetime
    patch: Mapping[str, Any] = field(default_factory=dict)
    rate: float | None = None
    next_due: dt.datetime | None = None
    last_due: dt.datetime | None = None
    _catalog: JobCatalog = field(default_factory=lambda: JobCatalog({}, {}))
    _definitions: dict[tuple[str, int], JobDefinition | None] = field(default_factory=dict)

    def load_catalog(self, connection: sa.Connection, rows: Sequence[ExecutionRow]) -> None:
        """Learn what has to be known of the jobs of these executions."""
        for key in {(row.job, row.job_revision) for row in rows} - set(self._definitions):
            self._definitions[key] = jobs.get_definition(connection, *key)
        self._catalog = preparation.load_catalog(
            connection, {row.job for row in rows}, map(self._get_overridden_queue, rows)
        )

    def prepare(self, row: ExecutionRow) -> NewExecution:
        """The rerun of an execution; raises what speaks against it."""
        wanted = replace(self._build_submission(row), due_at=self.next_due)
        # A call from Python may hold what kombu has written for a date, say. No patch may add that.
        made = preparation.prepare_execution(wanted, self._catalog, self.now, tagged=not self.patch).row
        if self.rate is not None:
            self.last_due = made.due_at
            self.next_due = made.due_at + dt.timedelta(seconds=1 / self.rate)
        return replace(made, rerun_of=row.id, schedule_id=row.schedule_id, scheduled_for=row.scheduled_for)

    def prepare_all(self, rows: Sequence[ExecutionRow]) -> tuple[list[NewExecution], list[BulkFailure]]:
        """The reruns of these executions, and what speaks against the others."""
        made: list[NewExecution] = []
        refused: list[BulkFailure] = []
        for row in rows:
            try:
                made.append(self.prepare(row))
            except JobWorkerError as error:
                places = [(each.pointer, each.code, each.message) for each in error.errors]
                refused.extend(BulkFailure(row.id, *place) for place in places or [("", error.code, error.detail)])
        return made, refused

    def insert_reruns(
        self, connection: sa.Connection, reruns: Sequence[NewExecution], actor: str
    ) -> tuple[list[NewExecution], list[BulkFailure]]:
        """Accept these reruns, in the caller's transaction; answers which, and what keeps the others out."""
        accepted = [each for each in reruns if each.unique_key is None]
        if accepted:
            executions.insert(connection, accepted, actor, self.now)
        refused = []
        # One after another, each seen by the next; by key, so that two transactions cannot wait for each other.
        for each in sorted(reruns, key=lambda one: one.unique_key or ""):
            if each.unique_key is None:
                continue
            if problem := self._take_key(connection, each):
                refused.append(BulkFailure(each.rerun_of or "", "", UniqueKeyConflict.code, problem))
            else:
                executions.insert(connection, [each], actor, self.now)
                accepted.append(each)
        return accepted, refused

    def _take_key(self, connection: sa.Connection, rerun: NewExecution) -> str | None:
        """Take the rerun's unique key; answers why that cannot be."""
        try:
            decided = uniqueness.acquire_keys(connection, [rerun], self._catalog.get_unique_policies(), self.now)
        except UniqueKeyConflict as error:
            return error.detail
        resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, decided.cancelled), self.now)
        return None if decided.accepted else f"execution {decided.ids[0]} has the unique key {rerun.unique_key}"

    def _get_overridden_queue(self, row: ExecutionRow) -> str | None:
        """The queue that was said for this execution alone."""
        then = self._definitions[row.job, row.job_revision]
        return None if then and row.queue == then.queue else row.queue

    def _build_submission(self, row: ExecutionRow) -> Submission:
        then = self._definitions[row.job, row.job_revision]
        return Submission(
            job=row.job,
            parameters=merge_patch.apply(row.parameters, self.patch),
            queue=self._get_overridden_queue(row),
            priority=None if then and row.priority == then.priority else row.priority,
            correlation_id=row.correlation_id,
            **(row.overrides or {}),
        )
