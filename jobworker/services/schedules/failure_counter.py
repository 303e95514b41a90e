"""Counter of consecutive failures of a schedule, which pauses the schedule after too many."""

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
import structlog

from jobworker.domain.executions.execution import ExecutionState
from jobworker.services.schedules import compiler
from jobworker.store import audit
from jobworker.store.audit import AuditEntry
from jobworker.store.schedules import due_schedules, schedule_rows
from jobworker.store.schedules.due_schedules import DueSchedule
from jobworker.store.schedules.schedule_rows import SchedulePauseRecord

logger = structlog.get_logger(__name__)

_FAILED_STATES = (ExecutionState.FAILED, ExecutionState.TIMED_OUT)

_ACTOR = "relay"


class EndedExecution(NamedTuple):
    """An execution of a schedule that has ended."""

    schedule_id: str
    execution_id: str
    state: ExecutionState


def count_failures(connection: sa.Connection, ended: Sequence[EndedExecution], now: dt.datetime) -> None:
    """Count the failures in order; a success resets the count, Cancelled and Skipped executions do not change it."""
    counted = [end for end in ended if end.state in _FAILED_STATES or end.state is ExecutionState.SUCCEEDED]
    if not counted:
        return
    rows = {row.id: row for row in due_schedules.get_many(connection, sorted({end.schedule_id for end in counted}))}
    compiled_schedules = compiler.compile_schedules(connection, list(rows.values()))
    failures = {key: row.failures for key, row in rows.items()}
    paused = {key for key, row in rows.items() if row.paused_at is not None}
    for end in counted:
        if end.schedule_id not in rows:
            continue
        failures[end.schedule_id] = failures[end.schedule_id] + 1 if end.state in _FAILED_STATES else 0
        plan = compiled_schedules.get(end.schedule_id)
        most = plan.schedule.pause_after_failures if plan else None
        if most is not None and failures[end.schedule_id] >= most and end.schedule_id not in paused:
            paused.add(end.schedule_id)
            _pause_schedule(connection, rows[end.schedule_id], end, failures[end.schedule_id], now)
    changed = {key: number for key, number in failures.items() if number != rows[key].failures}
    due_schedules.update_failures(connection, changed)


def _pause_schedule(
    connection: sa.Connection, row: DueSchedule, end: EndedExecution, failures: int, now: dt.datetime
) -> None:
    note = f"{failures} executions in a row failed; the last of them is {end.execution_id}"
    schedule_rows.update_pause(connection, row.id, SchedulePauseRecord(now, _ACTOR, note))
    logger.warning("schedule_paused", schedule=row.name, failures=failures, execution=end.execution_id)
    after = {"failures": failures, "execution": end.execution_id}
    audit.record(connection, AuditEntry(now, _ACTOR, "schedule.pause", row.name, None, after))
