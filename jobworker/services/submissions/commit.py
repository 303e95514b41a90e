"""The commit of a submission: executions, their dependencies, their batch, and the idempotency key."""

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from jobworker.domain.errors import FieldError, IdempotencyKeyReused, InvalidInput, UniqueKeyConflict
from jobworker.services.submissions import uniqueness as unique
from jobworker.services.submissions.preparation import JobCatalog, PreparedExecution
from jobworker.services.submissions.uniqueness import UniquenessResult
from jobworker.services.workflows import batch_completion, dependency_checks, resolution
from jobworker.store.database.database import Database
from jobworker.store.executions import executions, idempotency
from jobworker.store.executions.idempotency import IdempotencyRecord
from jobworker.store.workflows import batches, dependency_rows
from jobworker.store.workflows.batches import BatchKind, NewBatch

_MAX_KEY_LENGTH = 255


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """An Idempotency-Key, and its retention (s)."""

    key: str
    ttl: float


@dataclass(frozen=True, slots=True)
class SubmissionResult:
    """Result of a submission. `replayed`: it is the stored result of an earlier request with this key."""

    execution_ids: Sequence[str]
    batch_id: str | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class SubmissionContext:
    """Actor, time and Idempotency-Key (if any) of a request; `fingerprint` identifies its content."""

    actor: str
    now: dt.datetime
    idempotency_key: IdempotencyKey | None
    fingerprint: str


def commit_submission(
    database: Database,
    prepared: Sequence[PreparedExecution],
    catalog: JobCatalog,
    batch: NewBatch | None,
    request: SubmissionContext,
) -> SubmissionResult:
    """Commit a submission. The idempotency key is reserved first: it serializes concurrent requests with one key."""
    ids = [execution.row.id for execution in prepared]
    batch_id = batch.id if batch else None
    idempotency_key, now = request.idempotency_key, request.now

    def work(connection: sa.Connection) -> SubmissionResult:
        if idempotency_key is not None:
            record = IdempotencyRecord(idempotency_key.key, request.fingerprint, ids, batch_id, now)
            earlier = idempotency.reserve(connection, record, now - dt.timedelta(seconds=idempotency_key.ttl))
            if earlier is not None:
                return _build_replay(earlier, request.fingerprint)
        ended = dependency_checks.check_parents(connection, prepared)
        decided = unique.acquire_keys(
            connection, [execution.row for execution in prepared], catalog.get_unique_policies(), now
        )
        if idempotency_key is not None and decided.ids != ids:
            idempotency.update_execution_ids(connection, idempotency_key.key, decided.ids)
        _insert_accepted(connection, prepared, decided, batch, request)
        resolution.resolve_dependents(connection, dependency_rows.find_ended(connection, decided.cancelled), now)
        if ended:
            resolution.resolve_new_dependents(
                connection, [execution.row.id for execution in prepared if execution.depends_on], ended, now
            )
        return SubmissionResult(decided.ids, batch_id, replayed=False)

    only_adds = not any(execution.depends_on or execution.row.unique_key for execution in prepared)
    return database.commit(work, only_adds)


def _insert_accepted(
    connection: sa.Connection,
    prepared: Sequence[PreparedExecution],
    uniqueness: UniquenessResult,
    batch: NewBatch | None,
    request: SubmissionContext,
) -> None:
    """Insert the batch and the executions that were not deduplicated; complete a batch that is empty then."""
    accepted = {execution.id for execution in uniqueness.accepted}
    if batch is not None:
        if batch.kind is BatchKind.WORKFLOW and len(accepted) < len(prepared):
            raise UniqueKeyConflict(
                "another execution has the unique key of a step, and a step cannot be replaced by another execution"
            )
        batches.insert(connection, batch)
    executions.insert(connection, uniqueness.accepted, request.actor, request.now)
    dependency_checks.insert(connection, [execution for execution in prepared if execution.row.id in accepted])
    if batch is not None and not accepted:
        batch_completion.complete_batches(connection, [batch.id], request.now)


def find_replay(connection: sa.Connection, request: SubmissionContext) -> SubmissionResult | None:
    """Return the result of an earlier request with this idempotency key, or None."""
    idempotency_key = request.idempotency_key
    if idempotency_key is None:
        return None
    if not (0 < len(idempotency_key.key) <= _MAX_KEY_LENGTH and idempotency_key.key.isprintable()):
        message = f"Idempotency-Key must have 1 to {_MAX_KEY_LENGTH} printable characters"
        raise InvalidInput(message, [FieldError("Idempotency-Key", "not_allowed", message)])
    earlier = idempotency.get(connection, idempotency_key.key)
    if earlier is None or earlier.created_at < request.now - dt.timedelta(seconds=idempotency_key.ttl):
        return None
    return _build_replay(earlier, request.fingerprint)


def _build_replay(earlier: IdempotencyRecord, fingerprint: str) -> SubmissionResult:
    if earlier.fingerprint != fingerprint:
        raise IdempotencyKeyReused(
            f"Idempotency-Key {earlier.key} was used at {earlier.created_at.isoformat()} for another request; "
            "use a new key for new work"
        )
    return SubmissionResult(earlier.execution_ids, earlier.batch_id, replayed=True)


def compute_fingerprint(payload: Any, kind: str) -> str:
    """Compute the hash that identifies the content of a request of this kind."""
    content = orjson.dumps([kind, payload], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()
