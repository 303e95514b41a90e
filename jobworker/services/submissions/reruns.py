"""Reruns: an execution is submitted again as a new one, with unchanged or patched parameters.

The new execution uses the current job definition, and its limits are checked like those of a submission. It keeps the
properties that were set for the original execution alone: its own limits and policies, a queue or priority other than
the job's, the correlation id, and the occurrence of a schedule. It does not belong to a batch.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from jobworker.domain.errors import JobWorkerError, UniqueKeyConflict
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.domain.json import merge_patch
from jobworker.domain.submissions.submission import Submission
from jobworker.services.bulk.actions import BulkFailure
from jobworker.services.submissions import preparation, uniqueness
from jobworker.services.submissions.preparation import JobCatalog
from jobworker.services.workflows import resolution
from jobworker.store import jobs
from jobworker.store.executions import executions
from jobworker.store.executions.executions import ExecutionRow, NewExecution
from jobworker.store.workflows import dependency_rows


@dataclass(slots=True)
class Rerunner:
    """Preparation and insertion of reruns at the time `now`.

    `rate` of them per second are due, beginning at `next_due` (None: all at once). `patch` is a JSON merge patch for
    the parameters of each execution.
    """

    now: dt.datetime
    patch: Mapping[str, Any] = field(default_factory=dict)
    rate: float | None = None
    next_due: dt.datetime | None = None
    last_due: dt.datetime | None = None
    _catalog: JobCatalog = field(default_factory=lambda: JobCatalog({}, {}))
    _definitions: dict[tuple[str, int], JobDefinition | None] = field(default_factory=dict)

    def load_catalog(self, connection: sa.Connection, rows: Sequence[ExecutionRow]) -> None:
        """Load the current and the original definitions of the jobs of these executions."""
        for key in {(row.job, row.job_revision) for row in rows} - set(self._definitions):
            self._definitions[key] = jobs.get_definition(connection, *key)
        self._catalog = preparation.load_catalog(
            connection, {row.job for row in rows}, map(self._get_overridden_queue, rows)
        )

    def prepare(self, row: ExecutionRow) -> NewExecution:
        """Build the rerun of an execution. Raises the problems of its submission."""
        submission = replace(self._build_submission(row), due_at=self.next_due)
        # Parameters of a direct call may contain kombu's tagged values, for example dates. A patch must not add them.
        execution = preparation.prepare_execution(submission, self._catalog, self.now, tagged=not self.patch).row
        if self.rate is not None:
            self.last_due = execution.due_at
            self.next_due = execution.due_at + dt.timedelta(seconds=1 / self.rate)
        return replace(execution, rerun_of=row.id, schedule_id=row.schedule_id, scheduled_for=row.scheduled_for)

    def prepare_all(self, rows: Sequence[ExecutionRow]) -> tuple[list[NewExecution], list[BulkFailure]]:
        """Build the reruns of these executions; return the reruns, and the failures of the other executions."""
        reruns: list[NewExecution] = []
        refused: list[BulkFailure] = []
        for row in rows:
            try:
                reruns.append(self.prepare(row))
            except JobWorkerError as error:
                places = [(problem.pointer, problem.code, problem.message) for problem in error.errors]
                refused.extend(BulkFailure(row.id, *place) for place in places or [("", error.code, error.detail)])
        return reruns, refused

    def insert_reruns(
        self, connection: sa.Connection, reruns: Sequence[NewExecution], actor: str
    ) -> tuple[list[NewExecution], list[BulkFailure]]:
        """Insert reruns in the caller's transaction; return the inserted ones, and the failures of the others."""
        accepted = [rerun for rerun in reruns if rerun.unique_key is None]
        if accepted:
            executions.insert(connection, accepted, actor, self.now)
        refused = []
        # Inserted one by one, because each must see those before it; in the order of their keys, to avoid deadlocks.
        for rerun in sorted(reruns, key=lambda rerun: rerun.unique_key or ""):
            if rerun.unique_key is None:
                continue
            if problem := self._take_key(connection, rerun):
                refused.append(BulkFailure(rerun.rerun_of or "", "", UniqueKeyConflict.code, problem))
            else:
                executions.insert(connection, [rerun], actor, self.now)
                accepted.append(rerun)
        return accepted, refused

    def _take_key(self, connection: sa.Connection, rerun: NewExecution) -> str | None:
        """Acquire the unique key of a rerun; return the reason if that fails."""
        try:
            decided = uniqueness.acquire_keys(connection, [rerun], self._catalog.get_unique_policies(), self.now)
        except UniqueKeyConflict as error:
            return error.detail
        resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, decided.cancelled), self.now)
        return None if decided.accepted else f"execution {decided.ids[0]} has the unique key {rerun.unique_key}"

    def _get_overridden_queue(self, row: ExecutionRow) -> str | None:
        """Return the queue that was set for this execution alone, or None."""
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
