"""Pauses of schedules. Occurrences leave rows all the same; what becomes of them, the end of the pause says."""

import datetime as dt
from dataclasses import replace

import sqlalchemy as sa

from jobworker.domain import described, settling
from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.schedule import Misfire, Missed
from jobworker.domain.settling import Outcome
from jobworker.services import entering, firing, occasions, plans, preparing
from jobworker.services.entering import Occasion
from jobworker.store import audit, occurrences, schedules
from jobworker.store import settling as settling_store
from jobworker.store.audit import AuditEntry
from jobworker.store.schedules import Paused, ScheduleRow


def pause(
    connection: sa.Connection,
    row: ScheduleRow,
    note: str | None,
    until: dt.datetime | None,
    actor: str,
    now: dt.datetime,
) -> ScheduleRow:
    """Let nothing fire from now on, until somebody resumes it or `until` has come. In a pause: changes note and end."""
    described.require_note(note)
    if until is not None and until <= now:
        message = f"until {until.isoformat()} is past; leave it out to pause until somebody resumes the schedule"
        raise InvalidInput(message, [FieldError("/until", "past_time", message)])
    if row.paused_until is not None and row.paused_until <= now:
        row = resume(connection, row, "relay", now)
    since = row.paused_at or now
    return _write(connection, row, Paused(since, actor, note, until), "schedule.pause", actor, now)


def resume(
    connection: sa.Connection, row: ScheduleRow, actor: str, now: dt.datetime, policy: Missed | None = None
) -> ScheduleRow:
    """End a pause. `policy` says what becomes of the occurrences that it held up; None: the schedule does."""
    row = firing.settle_now(connection, row, now)
    if row.paused_at is None:
        return row
    _make_up(connection, row, actor, now, policy)
    settling_store.count_failures(connection, {row.id: 0})
    return _write(connection, row, Paused(), "schedule.resume", actor, now)


def end(connection: sa.Connection, schedule_id: str, now: dt.datetime) -> None:
    """End a pause that has come to its end, unless more is due than can be settled now: then another time."""
    if firing.settle(connection, {schedule_id: now}, now).unfinished:
        return
    row = schedules.by_id(connection, schedule_id)
    if row is not None and row.paused_until is not None and row.paused_until <= now:
        resume(connection, row, "relay", now)


def _make_up(connection: sa.Connection, row: ScheduleRow, actor: str, now: dt.datetime, policy: Missed | None) -> None:
    """Fire those of the occurrences that were held up which should be made up for."""
    [due], plan = settling_store.due(connection, [row.id]), plans.of(connection, [row]).get(row.id)
    if plan is None or row.paused_at is None:
        return
    schedule = plan.schedule
    wanted = policy or schedule.on_resume
    if wanted is Missed.SKIP or not firing.in_force(due):
        return
    known = preparing.look_up(connection, [row.job])
    line = entering.line(connection, due, schedule.overlap)
    situation = replace(
        occasions.situation(due, plan, known, line.unfinished_runs, now),
        misfire=Misfire(wanted, 0.0, schedule.misfire.max_occurrences),
        pause=None,
        # When they were due, calendars allowed them.
        find_forbidden_reason=_allowed,
    )
    most = schedule.misfire.max_occurrences if wanted is Missed.CATCH_UP else 1
    held_up = occurrences.held_up(connection, row.id, row.paused_at, most)
    reason = f"held up by a pause, and made up for when {actor} ended it"
    decided = settling.settle(held_up, situation)
    fired = [replace(each, reason=reason) for each in decided if each.outcome is Outcome.FIRED]
    firing.enter_besides(connection, Occasion(due, plan, fired, line), known, now, again=True)


def _allowed(_: dt.datetime) -> None:
    return None


def _write(
    connection: sa.Connection, row: ScheduleRow, paused: Paused, action: str, actor: str, now: dt.datetime
) -> ScheduleRow:
    schedules.pause(connection, row.id, paused)
    audit.record(connection, AuditEntry(now, actor, action, row.name, _shown(Paused.from_row(row)), _shown(paused)))
    written = schedules.by_id(connection, row.id)
    assert written is not None, "it was just written"
    return written


def _shown(paused: Paused) -> dict[str, str | None]:
    return {
        "paused_at": paused.paused_at.isoformat() if paused.paused_at else None,
        "paused_by": paused.paused_by,
        "pause_note": paused.pause_note,
        "paused_until": paused.paused_until.isoformat() if paused.paused_until else None,
    }
