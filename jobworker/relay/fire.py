"""The third step of a turn: due occurrences become executions, each once. Runs inside the turn's transaction."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
import structlog

from jobworker.domain import limits
from jobworker.domain.errors import NotUnique
from jobworker.domain.events import Event, Kind
from jobworker.domain.ids import IdFactory
from jobworker.domain.schedule import parse
from jobworker.services import preparing, release, unique
from jobworker.store import dependencies, executions, schedules, tasks
from jobworker.store.executions import NewExecution
from jobworker.store.schedules import ScheduleRow

logger = structlog.get_logger(__name__)

#: Rows that one report of missed occurrences may enter; a schedule of seconds misses many in a night.
_MOST_MISSED = 1000


def fire(connection: sa.Connection, reports: Sequence[Event], ids: IdFactory, now: dt.datetime) -> int:
    """Make an execution of each occurrence that has none yet; answers how many."""
    due = [read for event in reports if event.kind is Kind.DUE and (read := _read(event))]
    return sum(_fire_one(connection, one, ids, now) for one in due)


@dataclass(frozen=True, slots=True)
class Due:
    """What beat says: this schedule is due, its nominal time is that, and it stands for what was missed until then."""

    schedule: str
    at: dt.datetime
    until: dt.datetime | None


def _read(event: Event) -> Due | None:
    try:
        until = event.data.get("until")
        return Due(
            str(event.data["schedule"]),
            dt.datetime.fromisoformat(event.data["at"]).astimezone(dt.UTC),
            dt.datetime.fromisoformat(until).astimezone(dt.UTC) if until else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        logger.error("event_unreadable", event_id=event.id, error=repr(error), data=event.data)
        return None


def _fire_one(connection: sa.Connection, due: Due, ids: IdFactory, now: dt.datetime) -> bool:
    schedule = schedules.get(connection, due.schedule)
    if schedule is None:
        logger.info("schedule_gone", schedule=due.schedule)
        return False
    if not schedule.definition.enabled:
        reason = "the job was disabled when this occurrence was due"
        schedules.record(connection, schedule.id, due.at, "skipped_paused", None, now, reason)
        return False
    if schedules.is_recorded(connection, schedule.id, due.at):
        return False
    execution = _execution(connection, schedule, due.at, ids, now)
    other = _taken(connection, schedule, execution, now)
    if other is not None:
        schedules.record(connection, schedule.id, due.at, "skipped_duplicate", None, now, other)
        return False
    schedules.record(connection, schedule.id, due.at, "fired", execution.id, now)
    executions.insert(connection, [execution], f"schedule:{schedule.job}", now)
    if due.until is not None:
        _enter_missed(connection, schedule, due.at, due.until, now)
    return True


def _taken(connection: sa.Connection, schedule: ScheduleRow, execution: NewExecution, now: dt.datetime) -> str | None:
    """Why another execution stands for this occurrence."""
    policies = {schedule.job: schedule.definition.policies["unique"]}
    try:
        decided = unique.decide(connection, [execution], policies, now)
    except NotUnique as error:
        return error.detail
    release.release(connection, dependencies.ended(connection, decided.cancelled), now)
    [answer] = decided.ids
    return f"execution {answer} stands for it" if answer != execution.id else None


def _enter_missed(
    connection: sa.Connection, schedule: ScheduleRow, at: dt.datetime, until: dt.datetime, now: dt.datetime
) -> None:
    """What was missed leaves a row, too: it did not run because the execution of `at` stands for it."""
    rule = parse(schedule.rule)
    reason = f"missed while beat was away; the occurrence of {at.isoformat()} stands for it"
    missed = rule.next_after(at)
    for _ in range(_MOST_MISSED):
        if missed is None or missed >= until:
            return
        schedules.record(connection, schedule.id, missed, "coalesced", None, now, reason)
        missed = rule.next_after(missed)
    logger.warning("missed_occurrences_left_out", job=schedule.job, entered=_MOST_MISSED, until=until.isoformat())


def _execution(
    connection: sa.Connection, schedule: ScheduleRow, nominal: dt.datetime, ids: IdFactory, now: dt.datetime
) -> NewExecution:
    definition = schedule.definition
    task = tasks.get(connection, definition.task)
    accepted = task.parameters if task else ()
    keys = limits.keys(definition.name, definition.policies, definition.defaults, accepted)
    key = ids.new(int(now.timestamp() * 1000))
    own = {"id": key, "correlation_id": key, "schedule_id": schedule.id, "scheduled_for": nominal, **keys._asdict()}
    return preparing.new_execution(definition, schedule.revision, definition.defaults, now, **own)
