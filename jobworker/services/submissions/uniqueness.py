"""Unique keys: a second execution with a key is rejected, resolved to the first one, or replaces the first one."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from jobworker.domain.errors import FieldError, UniqueKeyConflict
from jobworker.domain.executions.execution import ExecutionState
from jobworker.domain.jobs import limits
from jobworker.domain.jobs.limits import OnConflict, UniquePolicy
from jobworker.store.executions import executions, unique_keys
from jobworker.store.executions.executions import NewExecution
from jobworker.store.executions.unique_keys import UniqueKeyHolder, UniqueKeyRequest


@dataclass(frozen=True, slots=True)
class UniquenessResult:
    """Result of acquiring unique keys.

    `ids` contains, for each new execution in order, its id or that of the execution that it is a duplicate of.
    `cancelled` contains the executions that were replaced and have ended; the caller must resolve their dependents.
    """

    accepted: Sequence[NewExecution]
    ids: Sequence[str]
    cancelled: Sequence[str] = ()


def acquire_keys(
    connection: sa.Connection, new_executions: Sequence[NewExecution], policies: Mapping[str, Any], now: dt.datetime
) -> UniquenessResult:
    """Acquire the unique keys of executions, in the transaction that inserts them. Raises `UniqueKeyConflict`.

    `policies` contains the `unique` policies by job, as JSON.
    """
    read = {job: limits.parse_unique(policy) for job, policy in policies.items() if policy}
    stands_for: dict[str, str] = {}
    cancelled: list[str] = []
    chosen = _deduplicate(new_executions, read, stands_for)
    # In the order of the keys, to avoid deadlocks of two transactions.
    for key in sorted(chosen):
        policy = read[chosen[key].job]
        key_request = _build_key_request(key, chosen[key].id, policy, now)
        holder = unique_keys.acquire(connection, key_request)
        if holder is not None and policy.on_conflict is OnConflict.RETURN:
            stands_for[key_request.execution_id] = holder.id
        elif holder is not None:
            cancelled += _replace_holder(connection, key_request, holder, policy)
    ids = [stands_for.get(execution.id, execution.id) for execution in new_executions]
    return UniquenessResult(
        [execution for execution in new_executions if execution.id not in stands_for],
        [stands_for.get(execution_id, execution_id) for execution_id in ids],
        cancelled,
    )


def acquire_key(
    connection: sa.Connection, execution_id: str, key: str, policy: Mapping[str, Any], now: dt.datetime
) -> Sequence[str]:
    """Acquire a unique key that was computed after its execution was inserted; return the executions cancelled for it.

    Raises `UniqueKeyConflict` if another execution keeps the key.
    """
    read = limits.parse_unique(policy)
    key_request = _build_key_request(key, execution_id, read, now)
    holder = unique_keys.acquire(connection, key_request)
    if holder is None:
        return ()
    if read.on_conflict is OnConflict.RETURN:
        raise UniqueKeyConflict(f"execution {holder.id} has the unique key {key}")
    return _replace_holder(connection, key_request, holder, read)


def _deduplicate(
    new_executions: Sequence[NewExecution], policies: Mapping[str, UniquePolicy], stands_for: dict[str, str]
) -> dict[str, NewExecution]:
    """Select one execution per unique key: the first, or the last if the policy is to replace.

    `stands_for` is updated: id of each execution dropped → id of the one selected. Raises `UniqueKeyConflict` if the
    policy is to reject.
    """
    chosen: dict[str, NewExecution] = {}
    for index, execution in enumerate(new_executions):
        policy, key = policies.get(execution.job), execution.unique_key
        if policy is None or key is None:
            continue
        rival = chosen.setdefault(key, execution)
        if rival is execution:
            continue
        if policy.on_conflict is OnConflict.REJECT:
            message = f"two executions of this batch have the unique key {key}"
            raise UniqueKeyConflict(message, [FieldError(f"/executions/{index}", "not_unique", message)])
        if policy.on_conflict is OnConflict.REPLACE:
            chosen[key] = execution
        kept, gone = (execution, rival) if chosen[key] is execution else (rival, execution)
        before = [dropped for dropped, selected in stands_for.items() if selected == gone.id]
        stands_for.update(dict.fromkeys([gone.id, *before], kept.id))
    return chosen


def _build_key_request(key: str, execution_id: str, policy: UniquePolicy, now: dt.datetime) -> UniqueKeyRequest:
    if policy.seconds is None:
        return UniqueKeyRequest(key, execution_id, policy.until, None, now)
    return UniqueKeyRequest(key, execution_id, None, now + dt.timedelta(seconds=policy.seconds), now)


def _replace_holder(
    connection: sa.Connection, key_request: UniqueKeyRequest, holder: UniqueKeyHolder, policy: UniquePolicy
) -> Sequence[str]:
    """Cancel the execution that holds the key and transfer the key. Raises `UniqueKeyConflict`.

    A conflict is an execution that has started, or a policy that does not replace. Return the executions that have
    ended by this: for a queued one a cancellation is only requested.
    """
    actor = f"execution:{key_request.execution_id}"
    if policy.on_conflict is OnConflict.REPLACE and not holder.started:
        reason = f"replaced by execution {key_request.execution_id}"
        if holder.state is ExecutionState.QUEUED:
            gone, ended = executions.request_cancel(connection, holder.id, actor, key_request.taken_at), False
        else:
            gone = ended = executions.cancel_waiting(connection, holder.id, actor, reason, key_request.taken_at)
        if gone:
            unique_keys.transfer(connection, key_request)
            return [holder.id] if ended else []
    started = " and has started" if holder.started and policy.on_conflict is OnConflict.REPLACE else ""
    message = f"execution {holder.id} has the unique key {key_request.key}{started}; it is {holder.state}"
    raise UniqueKeyConflict(message, [FieldError("", "not_unique", message)])
