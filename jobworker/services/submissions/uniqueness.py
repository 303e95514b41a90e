"""Unique keys: who comes second is refused, answered with the first, or takes its place."""

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
    """What is accepted of what was asked for, and, in the order of the question, the ids that answer for it.

    `cancelled` are executions that ended for it: what waits for them has to be told.
    """

    accepted: Sequence[NewExecution]
    ids: Sequence[str]
    cancelled: Sequence[str] = ()


def acquire_keys(
    connection: sa.Connection, new_executions: Sequence[NewExecution], policies: Mapping[str, Any], now: dt.datetime
) -> UniquenessResult:
    """Take the keys of these executions, in the transaction that accepts them; raises `NotUnique`.

    `policies` are the `unique` ones of their jobs, as JSON.
    """
    read = {job: limits.parse_unique(policy) for job, policy in policies.items() if policy}
    stands_for: dict[str, str] = {}
    cancelled: list[str] = []
    chosen = _deduplicate(new_executions, read, stands_for)
    # By key, so that two transactions cannot wait for each other.
    for key in sorted(chosen):
        policy = read[chosen[key].job]
        claim = _build_claim(key, chosen[key].id, policy, now)
        holder = unique_keys.acquire(connection, claim)
        if holder is not None and policy.on_conflict is OnConflict.RETURN:
            stands_for[claim.execution_id] = holder.id
        elif holder is not None:
            cancelled += _replace_holder(connection, claim, holder, policy)
    ids = [stands_for.get(each.id, each.id) for each in new_executions]
    return UniquenessResult(
        [each for each in new_executions if each.id not in stands_for],
        [stands_for.get(found, found) for found in ids],
        cancelled,
    )


def acquire_key(
    connection: sa.Connection, execution_id: str, key: str, policy: Mapping[str, Any], now: dt.datetime
) -> Sequence[str]:
    """Take a key for an execution that was accepted before its key was known; answers whom that cancelled.

    Raises `NotUnique` if another execution stands for it.
    """
    read = limits.parse_unique(policy)
    claim = _build_claim(key, execution_id, read, now)
    holder = unique_keys.acquire(connection, claim)
    if holder is None:
        return ()
    if read.on_conflict is OnConflict.RETURN:
        raise UniqueKeyConflict(f"execution {holder.id} stands for it: it has the unique key {key}")
    return _replace_holder(connection, claim, holder, read)


def _deduplicate(
    new_executions: Sequence[NewExecution], policies: Mapping[str, UniquePolicy], stands_for: dict[str, str]
) -> dict[str, NewExecution]:
    """Of those with the same key one is left: the first, or the last if each replaces the one before it."""
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
        before = [dropped for dropped, other in stands_for.items() if other == gone.id]
        stands_for.update(dict.fromkeys([gone.id, *before], kept.id))
    return chosen


def _build_claim(key: str, execution_id: str, policy: UniquePolicy, now: dt.datetime) -> UniqueKeyRequest:
    if policy.seconds is None:
        return UniqueKeyRequest(key, execution_id, policy.until, None, now)
    return UniqueKeyRequest(key, execution_id, None, now + dt.timedelta(seconds=policy.seconds), now)


def _replace_holder(
    connection: sa.Connection, claim: UniqueKeyRequest, holder: UniqueKeyHolder, policy: UniquePolicy
) -> Sequence[str]:
    """The execution that has the key is cancelled, unless it has started or the policy says otherwise.

    Answers who has ended with that: one that is queued is only asked to.
    """
    actor = f"execution:{claim.execution_id}"
    if policy.on_conflict is OnConflict.REPLACE and not holder.started:
        reason = f"replaced by execution {claim.execution_id}"
        if holder.state is ExecutionState.QUEUED:
            gone, ended = executions.request_cancel(connection, holder.id, actor, claim.taken_at), False
        else:
            gone = ended = executions.cancel_waiting(connection, holder.id, actor, reason, claim.taken_at)
        if gone:
            unique_keys.transfer(connection, claim)
            return [holder.id] if ended else []
    started = " and has started" if holder.started and policy.on_conflict is OnConflict.REPLACE else ""
    message = f"execution {holder.id} has the unique key {claim.key}{started}; it is {holder.state}"
    raise UniqueKeyConflict(message, [FieldError("", "not_unique", message)])
