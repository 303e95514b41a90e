"""Batches: preparation of a new batch, and its completion after the last of its executions has ended."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.errors import FieldError, InvalidInput, JobWorkerError
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.submissions.submission import MAX_CORRELATION_ID_LENGTH, Submission
from jobworker.domain.workflows import result_references
from jobworker.domain.workflows.result_references import UnresolvedParameter
from jobworker.services.submissions import preparation, uniqueness
from jobworker.services.submissions.preparation import JobCatalog
from jobworker.store import unreadable_rows
from jobworker.store.executions import executions
from jobworker.store.workflows import batches
from jobworker.store.workflows.batches import BatchKind, BatchRow, NewBatch

#: The name under which the parameters of an on-complete job refer to the summary of the batch.
BATCH_SOURCE_NAME = "batch"

_MAX_NAME_LENGTH = 128


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Options of a batch besides its executions."""

    name: str | None = None
    correlation_id: str | None = None
    on_complete: Submission | None = None

    @property
    def submissions(self) -> list[Submission]:
        """The submission of the on-complete job, if any."""
        return [self.on_complete] if self.on_complete else []


def prepare_batch(
    kind: BatchKind, options: BatchOptions, catalog: JobCatalog, now: dt.datetime, actor: str
) -> NewBatch:
    """Check the options and return the new batch. Raises `InvalidInput`."""
    for name, text, longest in (
        ("name", options.name, _MAX_NAME_LENGTH),
        ("correlation_id", options.correlation_id, MAX_CORRELATION_ID_LENGTH),
    ):
        if text is not None and not (0 < len(text) <= longest and text.isprintable()):
            message = f"{name} must have 1 to {longest} printable characters"
            raise InvalidInput(message, [FieldError(f"/{name}", "not_allowed", message)])
    on_complete = options.on_complete
    if on_complete is not None:
        try:
            preparation.prepare_execution(on_complete, catalog, now, "/on_complete", sources=[BATCH_SOURCE_NAME])
        except JobWorkerError as error:
            preparation.raise_if_problems(preparation.list_problems(error, "/on_complete"), "fields of on_complete")
    new_id = preparation.make_id(now)
    stored = (
        {name: getattr(on_complete, name) for name in ("job", "parameters", "queue", "priority")}
        if on_complete
        else None
    )
    return NewBatch(new_id, kind, options.name, options.correlation_id or new_id, stored, now, actor)


#: Check of the stored on-complete job of a batch; queue and priority may be null.
_ON_COMPLETE_SHAPE = unreadable_rows.build_object_check(job=str, parameters=dict, queue=str | None, priority=int | None)


def complete_batches(connection: sa.Connection, batch_ids: Iterable[str], now: dt.datetime) -> int:
    """Complete the batches whose last execution has ended; return the number of on-complete jobs started."""
    return sum(_complete_batch(connection, batch_id, now) for batch_id in sorted(batch_ids))


def summarize_batch(batch: BatchRow, counts: Mapping[ExecutionState, int]) -> dict[str, Any]:
    """Return the summary of a batch, to which the parameters of the on-complete job may refer."""
    return {
        "id": batch.id,
        "kind": batch.kind.value,
        "name": batch.name,
        "total": sum(counts.values()),
        "counts": {state.value: counts.get(state, 0) for state in sorted(FINAL_STATES)},
    }


def _complete_batch(connection: sa.Connection, batch_id: str, now: dt.datetime) -> bool:
    # Lock first: of two transactions that end the last two executions, the second must see both ends.
    batch = batches.lock_open(connection, batch_id)
    if batch is None or batches.has_unfinished(connection, batch_id):
        return False
    completion_id, problem = _start_on_complete_job(connection, batch, now)
    batches.mark_completed(connection, batch_id, now, completion_id, problem)
    return completion_id is not None


def _start_on_complete_job(
    connection: sa.Connection, batch: BatchRow, now: dt.datetime
) -> tuple[str | None, str | None]:
    """Start the on-complete job; return the id of its execution, or the reason why it was not started."""
    on_complete = batch.on_complete
    if on_complete is None:
        return None, None
    if batch.cancel_requested_at is not None:
        return None, "the on-complete job was not started, because the batch was cancelled"
    if not _ON_COMPLETE_SHAPE(on_complete):
        return None, "the on-complete job could not be started: its stored description cannot be read"
    # The queue was checked when the batch was submitted; it need not exist any more.
    catalog = preparation.load_catalog(connection, [on_complete["job"]])
    counts = batches.count_by_state(connection, [batch.id])[batch.id]
    try:
        parameters = result_references.substitute_references(
            on_complete["parameters"], {BATCH_SOURCE_NAME: summarize_batch(batch, counts)}
        )
        submission = Submission(
            job=on_complete["job"],
            parameters=parameters,
            queue=on_complete["queue"],
            priority=on_complete["priority"],
            correlation_id=batch.correlation_id,
        )
        execution = preparation.prepare_execution(submission, catalog, now, "/on_complete").row
        if execution.unique_key:
            uniqueness.acquire_key(
                connection, execution.id, execution.unique_key, catalog.get_unique_policies()[execution.job], now
            )
    except (JobWorkerError, UnresolvedParameter) as error:
        return None, f"the on-complete job could not be started: {error}"
    executions.insert(connection, [execution], f"batch:{batch.id}", now)
    return execution.id, None
