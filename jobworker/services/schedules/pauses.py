"""Pauses of schedules. Occurrences during a pause are recorded as skipped; resuming decides which of them fire."""

import datetime as dt
from dataclasses import replace

import sqlalchemy as sa

from jobworker.domain.errors import FieldError, InvalidInput
from jobworker.domain.json import json_reader
from jobworker.domain.schedules import evaluation
from jobworker.domain.schedules.evaluation import OccurrenceOutcome
from jobworker.domain.schedules.schedule import MisfirePolicy, MissedOccurrencePolicy
from jobworker.services.schedules import compiler, evaluator, execution_factory, occurrence_writer
from jobworker.services.schedules.occurrence_writer import EvaluatedSchedule
from jobworker.services.submissions import preparation
from jobworker.store import audit
from jobworker.store.audit import AuditEntry
from jobworker.store.schedules import due_schedules, occurrence_rows, schedule_rows
from jobworker.store.schedules.schedule_rows import SchedulePauseRecord, ScheduleRow


def pause_schedule(
    connection: sa.Connection,
    row: ScheduleRow,
    note: str | None,
    until: dt.datetime | None,
    actor: str,
    now: dt.datetime,
) -> ScheduleRow:
    """Pause a schedule until it is resumed or `until` is reached. If it is paused already, change note and end."""
    json_reader.check_note(note)
    if until is not None and until <= now:
        message = f"until {until.isoformat()} has passed; leave it out to pause until the schedule is resumed"
        raise InvalidInput(message, [FieldError("/until", "past_time", message)])
    if row.paused_until is not None and row.paused_until <= now:
        row = resume_schedule(connection, row, "relay", now)
    since = row.paused_at or now
    return _save_pause(connection, row, SchedulePauseRecord(since, actor, note, until), "schedule.pause", actor, now)


def resume_schedule(
    connection: sa.Connection,
    row: ScheduleRow,
    actor: str,
    now: dt.datetime,
    policy: MissedOccurrencePolicy | None = None,
) -> ScheduleRow:
    """End a pause. `policy` decides which of the skipped occurrences fire; None: the schedule's `on_resume`."""
    row = evaluator.evaluate_now(connection, row, now)
    if row.paused_at is None:
        return row
    _fire_held_up(connection, row, actor, now, policy)
    due_schedules.update_failures(connection, {row.id: 0})
    return _save_pause(connection, row, SchedulePauseRecord(), "schedule.resume", actor, now)


def end_expired_pause(connection: sa.Connection, schedule_id: str, now: dt.datetime) -> None:
    """End a pause whose end is reached, unless more is due than can be evaluated now (then at a later call)."""
    if evaluator.evaluate_due(connection, {schedule_id: now}, now).unfinished:
        return
    row = schedule_rows.get_by_id(connection, schedule_id)
    if row is not None and row.paused_until is not None and row.paused_until <= now:
        resume_schedule(connection, row, "relay", now)


def _fire_held_up(
    connection: sa.Connection, row: ScheduleRow, actor: str, now: dt.datetime, policy: MissedOccurrencePolicy | None
) -> None:
    """Fire those of the occurrences skipped by the pause that the policy selects."""
    [due], plan = (
        due_schedules.get_many(connection, [row.id]),
        compiler.compile_schedules(connection, [row]).get(row.id),
    )
    if plan is None or row.paused_at is None:
        return
    schedule = plan.schedule
    effective_policy = policy or schedule.on_resume
    if effective_policy is MissedOccurrencePolicy.SKIP or not evaluator.is_in_force(due):
        return
    catalog = preparation.load_catalog(connection, [row.job])
    unfinished = occurrence_writer.load_unfinished(connection, due, schedule.overlap)
    situation = replace(
        execution_factory.build_evaluation_context(due, plan, catalog, unfinished.unfinished_runs, now),
        misfire=MisfirePolicy(effective_policy, 0.0, schedule.misfire.max_occurrences),
        pause=None,
        # Calendars allowed these occurrences when they were due.
        find_forbidden_reason=_allow_all,
    )
    most = schedule.misfire.max_occurrences if effective_policy is MissedOccurrencePolicy.CATCH_UP else 1
    held_up = occurrence_rows.list_skipped_by_pause(connection, row.id, row.paused_at, most)
    reason = f"skipped by a pause, and fired when {actor} ended the pause"
    decisions = evaluation.evaluate(held_up, situation)
    fired = [replace(decision, reason=reason) for decision in decisions if decision.outcome is OccurrenceOutcome.FIRED]
    evaluator.record_extra_occurrences(
        connection, EvaluatedSchedule(due, plan, fired, unfinished), catalog, now, overwrite=True
    )


def _allow_all(_: dt.datetime) -> None:
    return None


def _save_pause(
    connection: sa.Connection, row: ScheduleRow, paused: SchedulePauseRecord, action: str, actor: str, now: dt.datetime
) -> ScheduleRow:
    schedule_rows.update_pause(connection, row.id, paused)
    audit.record(
        connection,
        AuditEntry(now, actor, action, row.name, _to_audit(SchedulePauseRecord.from_row(row)), _to_audit(paused)),
    )
    written = schedule_rows.get_by_id(connection, row.id)
    assert written is not None, "it was just written"
    return written


def _to_audit(paused: SchedulePauseRecord) -> dict[str, str | None]:
    return {
        "paused_at": paused.paused_at.isoformat() if paused.paused_at else None,
        "paused_by": paused.paused_by,
        "pause_note": paused.pause_note,
        "paused_until": paused.paused_until.isoformat() if paused.paused_until else None,
    }
