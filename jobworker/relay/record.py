"""The second step of a turn: reports become rows. Runs inside the turn's transaction."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
import structlog

from jobworker.domain import events, fingerprint, losses
from jobworker.domain.dead_letter import DEAD
from jobworker.domain.dependencies import Parent
from jobworker.domain.errors import UnreadableRow
from jobworker.domain.events import CUT_SHORT, ENDS, NEVER_RAN, STATES, Event, Kind
from jobworker.domain.execution import MAX_SNOOZES, Move, Standing, State, merge
from jobworker.domain.job import Definition, OnWorkerLost
from jobworker.domain.losses import MAX_LOSSES
from jobworker.relay.called import adopt, refused
from jobworker.services.failures import End
from jobworker.store import dispatch, history, jobs, workers
from jobworker.store.history import Known

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that a worker took: everything published before it to the same list should be gone, too."""

    queue: str
    urgency: int
    dispatched_at: dt.datetime


#: Reports that may be about a message which is no attempt of an execution.
_ABOUT_MESSAGES = NEVER_RAN | {Kind.POISONED, Kind.UNKNOWN_TASK}


@dataclass(frozen=True, slots=True)
class Declined:
    """A message that went to a worker without its task, and back to nobody."""

    execution: str
    attempt: int
    task: str
    worker: str


@dataclass(frozen=True, slots=True)
class Told:
    """What reports say about messages, and which executions have ended with them, those of schedules once more."""

    claimed: list[Claimed] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)
    ended: list[Parent] = field(default_factory=list)
    schedule_ends: list[End] = field(default_factory=list)


def record(connection: sa.Connection, reports: Sequence[Event]) -> Told:
    """Write down what workers reported, in the order of the stream; answers what became of messages."""
    adopt(connection, reports)
    refusals = refused(connection, reports)
    ours = [event for event in reports if not _is_foreign(event) and event.execution not in refusals]
    ours += refusals.values()
    told = Told(declined=_declined(connection, ours))
    for part in _parts(ours):
        lost = part[0].kind is Kind.WORKER_LOST
        moves = _attempts_of_lost_worker(connection, part[0]) if lost else part
        _record_moves(connection, moves, told)
    return told


def _is_foreign(event: Event) -> bool:
    """Whether a report is about a message that JobWorker did not send; there is nothing but the log to keep it."""
    if event.execution or event.kind not in _ABOUT_MESSAGES:
        return False
    told = {name: event.data.get(name) for name in ("message", "task", "queue", "worker", "reason")}
    logger.warning("foreign_message_given_up", fate=event.kind.value, **told)
    return True


def _declined(connection: sa.Connection, reports: Iterable[Event]) -> list[Declined]:
    declined = [event for event in reports if event.kind is Kind.UNKNOWN_TASK]
    known = history.known(connection, {event.execution for event in declined})
    return [
        Declined(event.execution, event.attempt, known[event.execution].task, str(event.data.get("worker")))
        for event in declined
        if event.execution in known
    ]


def _parts(reports: Iterable[Event]) -> Iterator[list[Event]]:
    """Runs of state reports, each lost worker alone between them: it concerns what was reported before."""
    run: list[Event] = []
    for event in reports:
        if event.kind is Kind.WORKER_LOST:
            if run:
                yield run
            yield [event]
            run = []
        elif event.kind in STATES or event.kind in CUT_SHORT:
            run.append(event)
    if run:
        yield run


def _attempts_of_lost_worker(connection: sa.Connection, event: Event) -> list[Event]:
    worker = str(event.data.get("worker"))
    workers.gone(connection, [worker], event.at)
    held = dispatch.running(connection, worker)
    logger.warning("worker_lost", worker=worker, attempts=len(held))
    return [
        Event(event.id, Kind.LOST, row.id, row.attempt, {"worker": worker, "reason": "its worker stopped responding"})
        for row in held
    ]


def _record_moves(connection: sa.Connection, reports: Sequence[Event], told: Told) -> None:
    known = history.known(connection, {event.execution for event in reports})
    changed: dict[str, Standing] = {}
    moves: list[Move] = []
    for event in reports:
        row = known.get(event.execution)
        if row is None:
            logger.warning("report_of_unknown_execution", execution=event.execution, kind=event.kind.value)
            continue
        standing = changed.get(row.id, row.standing)
        move = _move_or_refusal(connection, row, standing, event)
        if move is None:
            continue
        merged = merge(standing, move)
        if merged is standing:
            continue
        if move.state is State.RUNNING and row.dispatched_at:
            told.claimed.append(Claimed(row.queue, row.urgency, row.dispatched_at))
        moves.append(move)
        changed[row.id] = merged
    history.save(connection, changed, _dead(changed, known))
    history.add_attempts(connection, moves)
    history.add_transitions(connection, moves)
    for key, standing in changed.items():
        row = known[key]
        if standing.is_final and not row.standing.is_final:
            told.ended.append(Parent(row.id, row.job, standing.state, row.batch_id, row.correlation_id))
            # A backfill is a batch: how that goes says nothing about what is due.
            if row.schedule_id is not None and row.batch_id is None:
                told.schedule_ends.append(End(row.schedule_id, row.id, standing.state))


def _dead(changed: Mapping[str, Standing], known: Mapping[str, Known]) -> dict[str, str]:
    """Those that have become dead letters, with the fingerprints of their failures."""
    return {
        key: fingerprint.of(standing.error, known[key].task)
        for key, standing in changed.items()
        if standing.state in DEAD
    }


def _move_or_refusal(connection: sa.Connection, row: Known, standing: Standing, event: Event) -> Move | None:
    """What a report means. Nothing that stands in Redis may stop the relay, and no end of an attempt may be missed."""
    try:
        return _to_move(connection, row, standing, event)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        logger.error("event_unreadable", event_id=event.id, kind=event.kind.value, execution=row.id, error=repr(error))
        return events.to_move(events.refused(event, repr(error))) if event.kind in ENDS else None


def _to_move(connection: sa.Connection, row: Known, standing: Standing, event: Event) -> Move:
    cut_short = event.kind in CUT_SHORT
    move = _cut_short(connection, row, standing, event) if cut_short else events.to_move(event)
    if row.cancel_requested_by:
        return _cancelled(move, row.cancel_requested_by, cut_short)
    if move.snoozed and len(standing.snoozed_attempts | {move.attempt}) >= MAX_SNOOZES:
        reason = f"it was put off {MAX_SNOOZES} times; the last time: {move.reason}"
        return replace(move, state=State.FAILED, reason=reason, due_at=None, error=_error("Snoozed", reason))
    return move


def _cancelled(move: Move, by: str, cut_short: bool) -> Move:
    """What a report of an execution means that `by` wants cancelled: no other attempt follows."""
    if move.state is State.RETRYING or cut_short:
        return replace(move, state=State.CANCELLED, actor=by, reason="cancelled before the next attempt", due_at=None)
    return replace(move, actor=by) if move.state is State.CANCELLED else move


def _cut_short(connection: sa.Connection, row: Known, standing: Standing, event: Event) -> Move:
    """What becomes of an execution whose worker (or process) is gone, or was shut down: that is nobody's fault."""
    lost = event.kind is Kind.LOST
    why = event.data.get("reason", "its worker is gone")
    began = standing.started_attempt >= event.attempt
    definition = _definition(connection, row)
    again = definition is None or definition.on_worker_lost is OnWorkerLost.RETRY or not began
    kind = "WorkerLost" if lost else "WorkerStopped"
    if not began:
        why = f"{why}, as far as is known before it began"
    elif again and lost and _is_poison(connection, standing, event):
        again, kind = False, "Poisoned"
        why = f"{why}; it took {MAX_LOSSES} workers with it and is not started again"
    return Move(
        execution=event.execution,
        attempt=event.attempt,
        state=State.RETRYING if again else State.FAILED,
        event_id=event.stream_position,
        at=event.at,
        actor="relay" if lost else events.actor(event),
        reason=why,
        worker=event.data.get("worker"),
        due_at=event.at if again else None,
        error=_error(kind, why),
        lost=lost,
        interrupted=not lost,
    )


def _definition(connection: sa.Connection, row: Known) -> Definition | None:
    """Return what the execution runs by; None if that is gone or cannot be read."""
    try:
        return jobs.revision(connection, row.job, row.job_revision)
    except UnreadableRow:  # It was logged where it was read.
        return None


def _is_poison(connection: sa.Connection, standing: Standing, event: Event) -> bool:
    lost = standing.lost_attempts | {event.attempt}
    return losses.is_poison(lost, history.began(connection, event.execution, lost) | {event.attempt})


def _error(kind: str, message: str) -> dict[str, str | None]:
    return {"type": kind, "message": message, "traceback": None}
