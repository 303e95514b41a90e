"""Recording of events in SQL, in the transaction of a relay turn."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
import structlog

from jobworker.domain.errors import UnreadableRow
from jobworker.domain.executions import events, failure_fingerprint, worker_loss
from jobworker.domain.executions.dead_letter import DEAD_LETTER_STATES
from jobworker.domain.executions.events import (
    ATTEMPT_END_KINDS,
    INTERRUPTED_ATTEMPT_KINDS,
    NEVER_RAN_KINDS,
    STATE_BY_KIND,
    Event,
    EventKind,
)
from jobworker.domain.executions.execution import (
    MAX_SNOOZES,
    ExecutionState,
    MergedExecution,
    StateTransition,
    merge_transition,
)
from jobworker.domain.executions.worker_loss import MAX_LOSSES
from jobworker.domain.jobs.definition import JobDefinition, OnWorkerLost
from jobworker.domain.workflows.dependency import ParentExecution
from jobworker.relay.direct_calls import insert_direct_calls, reject_calls_of_removed_tasks
from jobworker.services.schedules.failure_counter import EndedExecution
from jobworker.store import jobs, workers
from jobworker.store.executions import dispatch, history
from jobworker.store.executions.history import StoredExecution

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """A message that a worker claimed: messages published earlier to the same list should be gone, too."""

    queue: str
    urgency: int
    dispatched_at: dt.datetime


#: Kinds of events that may concern a message without an execution.
_MESSAGE_KINDS = NEVER_RAN_KINDS | {EventKind.POISONED, EventKind.UNKNOWN_TASK}


@dataclass(frozen=True, slots=True)
class DeclinedMessage:
    """A message that was declined by a worker without its task, and is in no list any more."""

    execution: str
    attempt: int
    task: str
    worker: str


@dataclass(frozen=True, slots=True)
class RecordedEvents:
    """Claimed and declined messages and ended executions among the recorded events.

    `schedule_ends` repeats the ended executions that belong to schedules.
    """

    claimed: list[ClaimedMessage] = field(default_factory=list)
    declined: list[DeclinedMessage] = field(default_factory=list)
    ended: list[ParentExecution] = field(default_factory=list)
    schedule_ends: list[EndedExecution] = field(default_factory=list)


def record_events(connection: sa.Connection, reports: Sequence[Event]) -> RecordedEvents:
    """Record the events in stream order; return the claimed and declined messages and the ended executions."""
    insert_direct_calls(connection, reports)
    refusals = reject_calls_of_removed_tasks(connection, reports)
    own_events = [event for event in reports if not _is_foreign(event) and event.execution not in refusals]
    own_events += refusals.values()
    recorded = RecordedEvents(declined=_find_declined_messages(connection, own_events))
    for part in _split_at_lost_workers(own_events):
        lost = part[0].kind is EventKind.WORKER_LOST
        moves = _end_attempts_of_lost_worker(connection, part[0]) if lost else part
        _record_moves(connection, moves, recorded)
    return recorded


def _is_foreign(event: Event) -> bool:
    """Return whether an event concerns a message that JobWorker did not send; such an event is only logged."""
    if event.execution or event.kind not in _MESSAGE_KINDS:
        return False
    fields = {name: event.data.get(name) for name in ("message", "task", "queue", "worker", "reason")}
    logger.warning("foreign_message_given_up", fate=event.kind.value, **fields)
    return True


def _find_declined_messages(connection: sa.Connection, reports: Iterable[Event]) -> list[DeclinedMessage]:
    declined = [event for event in reports if event.kind is EventKind.UNKNOWN_TASK]
    stored = history.get_many(connection, {event.execution for event in declined})
    return [
        DeclinedMessage(event.execution, event.attempt, stored[event.execution].task, str(event.data.get("worker")))
        for event in declined
        if event.execution in stored
    ]


def _split_at_lost_workers(reports: Iterable[Event]) -> Iterator[list[Event]]:
    """Yield runs of state events; each `worker_lost` is a run of its own, because it concerns the events before it."""
    run: list[Event] = []
    for event in reports:
        if event.kind is EventKind.WORKER_LOST:
            if run:
                yield run
            yield [event]
            run = []
        elif event.kind in STATE_BY_KIND or event.kind in INTERRUPTED_ATTEMPT_KINDS:
            run.append(event)
    if run:
        yield run


def _end_attempts_of_lost_worker(connection: sa.Connection, event: Event) -> list[Event]:
    worker = str(event.data.get("worker"))
    workers.mark_gone(connection, [worker], event.at)
    running = dispatch.list_running(connection, worker)
    logger.warning("worker_lost", worker=worker, attempts=len(running))
    return [
        Event(
            event.id, EventKind.LOST, row.id, row.attempt, {"worker": worker, "reason": "its worker stopped responding"}
        )
        for row in running
    ]


def _record_moves(connection: sa.Connection, reports: Sequence[Event], recorded: RecordedEvents) -> None:
    stored = history.get_many(connection, {event.execution for event in reports})
    changed: dict[str, MergedExecution] = {}
    moves: list[StateTransition] = []
    for event in reports:
        row = stored.get(event.execution)
        if row is None:
            logger.warning("report_of_unknown_execution", execution=event.execution, kind=event.kind.value)
            continue
        current = changed.get(row.id, row.merged)
        move = _move_or_refusal(connection, row, current, event)
        if move is None:
            continue
        merged = merge_transition(current, move)
        if merged is current:
            continue
        if move.state is ExecutionState.RUNNING and row.dispatched_at:
            recorded.claimed.append(ClaimedMessage(row.queue, row.urgency, row.dispatched_at))
        moves.append(move)
        changed[row.id] = merged
    history.update_merged_executions(connection, changed, _fingerprint_dead_letters(changed, stored))
    history.upsert_attempts(connection, moves)
    history.insert_transitions(connection, moves)
    for key, merged in changed.items():
        row = stored[key]
        if merged.is_final and not row.merged.is_final:
            recorded.ended.append(ParentExecution(row.id, row.job, merged.state, row.batch_id, row.correlation_id))
            # The end of a backfill's execution has no effect on the schedule's failure count.
            if row.schedule_id is not None and row.batch_id is None:
                recorded.schedule_ends.append(EndedExecution(row.schedule_id, row.id, merged.state))


def _fingerprint_dead_letters(
    changed: Mapping[str, MergedExecution], stored: Mapping[str, StoredExecution]
) -> dict[str, str]:
    """Return the failure fingerprints of executions that have become dead letters, by id."""
    return {
        key: failure_fingerprint.compute_fingerprint(merged.error, stored[key].task)
        for key, merged in changed.items()
        if merged.state in DEAD_LETTER_STATES
    }


def _move_or_refusal(
    connection: sa.Connection, row: StoredExecution, merged: MergedExecution, event: Event
) -> StateTransition | None:
    """Return the transition of an event; None if the event is unreadable and does not end an attempt.

    Content of Redis must not stop the relay, and no end of an attempt may be missed: an unreadable end is recorded as a
    failure.
    """
    try:
        return _to_move(connection, row, merged, event)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        logger.error("event_unreadable", event_id=event.id, kind=event.kind.value, execution=row.id, error=repr(error))
        return (
            events.to_transition(events.build_refused_event(event, repr(error)))
            if event.kind in ATTEMPT_END_KINDS
            else None
        )


def _to_move(connection: sa.Connection, row: StoredExecution, merged: MergedExecution, event: Event) -> StateTransition:
    cut_short = event.kind in INTERRUPTED_ATTEMPT_KINDS
    move = _to_move_without_worker(connection, row, merged, event) if cut_short else events.to_transition(event)
    if row.cancel_requested_by:
        return _apply_cancellation(move, row.cancel_requested_by, cut_short)
    if move.snoozed and len(merged.snoozed_attempts | {move.attempt}) >= MAX_SNOOZES:
        reason = f"it was snoozed {MAX_SNOOZES} times; the last time: {move.reason}"
        return replace(
            move, state=ExecutionState.FAILED, reason=reason, due_at=None, error=_build_error("Snoozed", reason)
        )
    return move


def _apply_cancellation(move: StateTransition, actor: str, cut_short: bool) -> StateTransition:
    """Return the transition of an execution that `actor` wants cancelled: no other attempt follows."""
    if move.state is ExecutionState.RETRYING or cut_short:
        return replace(
            move, state=ExecutionState.CANCELLED, actor=actor, reason="cancelled before the next attempt", due_at=None
        )
    return replace(move, actor=actor) if move.state is ExecutionState.CANCELLED else move


def _to_move_without_worker(
    connection: sa.Connection, row: StoredExecution, merged: MergedExecution, event: Event
) -> StateTransition:
    """Return the transition of an attempt whose worker or process was lost or shut down; the job is not at fault."""
    lost = event.kind is EventKind.LOST
    why = event.data.get("reason", "its worker is gone")
    began = merged.started_attempt >= event.attempt
    definition = _get_definition(connection, row)
    again = definition is None or definition.on_worker_lost is OnWorkerLost.RETRY or not began
    kind = "WorkerLost" if lost else "WorkerStopped"
    if not began:
        why = f"{why}, as far as is known before it began"
    elif again and lost and _is_poison(connection, merged, event):
        again, kind = False, "Poisoned"
        why = f"{why}; it took {MAX_LOSSES} workers with it and is not started again"
    return StateTransition(
        execution=event.execution,
        attempt=event.attempt,
        state=ExecutionState.RETRYING if again else ExecutionState.FAILED,
        event_id=event.stream_position,
        at=event.at,
        actor="relay" if lost else events.format_actor(event),
        reason=why,
        worker=event.data.get("worker"),
        due_at=event.at if again else None,
        error=_build_error(kind, why),
        lost=lost,
        interrupted=not lost,
    )


def _get_definition(connection: sa.Connection, row: StoredExecution) -> JobDefinition | None:
    """Return the job definition of the execution; None if it is deleted or unreadable."""
    try:
        return jobs.get_definition(connection, row.job, row.job_revision)
    except UnreadableRow:  # The read has logged it.
        return None


def _is_poison(connection: sa.Connection, merged: MergedExecution, event: Event) -> bool:
    lost = merged.lost_attempts | {event.attempt}
    return worker_loss.is_poison(
        lost, history.find_started_attempts(connection, event.execution, lost) | {event.attempt}
    )


def _build_error(kind: str, message: str) -> dict[str, str | None]:
    return {"type": kind, "message": message, "traceback": None}
