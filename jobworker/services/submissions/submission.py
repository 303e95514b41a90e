"""Submission of executions: after one commit they will run.

Submissions are looked up and checked before the write transaction begins, so that a flood of rejected requests, or the
checks of 10,000 items, never keep the relay from writing. A change between the checks and the commit (for example of a
definition) counts as made after the submission: an execution names the revision of its job.
"""

from collections.abc import Sequence

from jobworker.clock import Clock
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.submissions.submission import Submission
from jobworker.services.submissions import commit, preparation
from jobworker.services.submissions.commit import IdempotencyKey, SubmissionContext, SubmissionResult
from jobworker.services.workflows import batch_completion
from jobworker.services.workflows.batch_completion import BatchOptions
from jobworker.store.database.database import Database
from jobworker.store.executions import executions
from jobworker.store.executions.executions import ExecutionRow
from jobworker.store.workflows.batches import BatchKind

#: Maximum number of executions per request, because they are one transaction that other writers wait for.
MAX_BATCH_SIZE = 10_000

#: Options of a batch that was submitted without any.
_NO_OPTIONS = BatchOptions()


def submit(
    database: Database, clock: Clock, submission: Submission, actor: str, idempotency_key: IdempotencyKey | None = None
) -> tuple[ExecutionRow, bool]:
    """Submit one execution.

    Return its row as inserted and False; or, for a repeated idempotency key or a duplicate unique key, the current row
    of the existing execution and True.
    """
    request = SubmissionContext(actor, clock.now(), idempotency_key, commit.compute_fingerprint([submission], "one"))
    with database.read() as connection:
        replay = commit.find_replay(connection, request)
        if replay is None:
            catalog = preparation.load_catalog_for_job(connection, submission.job, submission.queue)
    if replay is None:
        prepared = preparation.prepare_execution(submission, catalog, request.now)
        replay = commit.commit_submission(database, [prepared], catalog, None, request)
        new = not replay.replayed and replay.execution_ids[0] == prepared.row.id
        if new and not prepared.depends_on:
            return executions.build_inserted_row(prepared.row, actor, request.now), False
    else:
        new = False
    with database.read() as connection:
        row = executions.get(connection, replay.execution_ids[0])
    assert row is not None, "an execution that a key names is kept as long as the key"
    return row, not new


def submit_batch(
    database: Database,
    clock: Clock,
    submissions: Sequence[Submission],
    actor: str,
    idempotency_key: IdempotencyKey | None = None,
    options: BatchOptions = _NO_OPTIONS,
) -> SubmissionResult:
    """Submit all executions of a batch, or none: one invalid item rejects the batch."""
    if not 0 < len(submissions) <= MAX_BATCH_SIZE:
        message = f"a batch has 1 to {MAX_BATCH_SIZE} executions, not {len(submissions)}"
        raise InvalidInput(message, [FieldError("/executions", "not_allowed", message)])
    request = SubmissionContext(
        actor, clock.now(), idempotency_key, commit.compute_fingerprint([options, submissions], "batch")
    )
    with database.read() as connection:
        replay = commit.find_replay(connection, request)
        if replay is not None:
            return replay
        all_submissions = [*submissions, *options.submissions]
        catalog = preparation.load_catalog(
            connection,
            [submission.job for submission in all_submissions],
            [submission.queue for submission in all_submissions],
        )
    batch = batch_completion.prepare_batch(BatchKind.BATCH, options, catalog, request.now, actor)
    prepared = preparation.prepare_executions(submissions, catalog, request.now, batch.id)
    return commit.commit_submission(database, prepared, catalog, batch, request)
