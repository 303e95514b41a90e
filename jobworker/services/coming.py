"""What is ahead of a schedule: its next nominal times, and what is to be expected of each."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from jobworker.domain import outlook
from jobworker.domain.outlook import Upcoming
from jobworker.domain.timetable import Timetable, forbidden_by
from jobworker.store.schedules import ScheduleRow


class Expected(StrEnum):
    """What will become of an occurrence, as far as that can be known."""

    #: Its job starts, unless an execution before it has not ended, and the schedule does not want that.
    FIRE = "expected"
    #: A calendar forbids it.
    SKIPPED_CALENDAR = "skipped_calendar"
    #: It lies in a pause, or its job is disabled.
    SKIPPED_PAUSED = "skipped_paused"


@dataclass(frozen=True, slots=True)
class Coming:
    """One nominal time, as UTC and as clocks of the schedule's zone show it; why nothing starts then, if so.

    `notes` say what is remarkable about it: holidays, clocks that change.
    """

    at: dt.datetime
    local: dt.datetime
    outcome: Expected
    reason: str | None
    notes: Sequence[str]


def coming(timetable: Timetable, after: dt.datetime, count: int) -> list[Coming]:
    """The next `count` times at which something starts, and before each the first that calendars forbid, if any."""
    return [_coming(timetable, each) for each in outlook.upcoming(timetable, after, count)]


def at_start(timetable: Timetable, now: dt.datetime) -> Coming:
    """The occurrence that a schedule has when it is created, if it runs at start."""
    one = _coming(timetable, Upcoming(now, now.astimezone(timetable.zone), True, ()))
    return replace(one, notes=[*one.notes, "it runs at start"])


def left_out(each: Coming, reason: str | None) -> Coming:
    """The same if something keeps the schedule from starting anything then; None: nothing does."""
    if reason is None or each.outcome is not Expected.FIRE:
        return each
    return replace(each, outcome=Expected.SKIPPED_PAUSED, reason=reason)


def of_schedule(
    row: ScheduleRow, timetable: Timetable, closed: str | None, after: dt.datetime, count: int
) -> Sequence[Coming]:
    """Up to `count` of what is due after this moment, and not settled yet, as the schedule stands.

    `closed`: why nothing of its job may run.
    """
    if row.next_at is None or not row.enabled:
        return []
    left = None if row.schedule.max_runs is None else row.schedule.max_runs - row.runs
    after = max(after, row.settled_until, row.next_at - dt.timedelta(microseconds=1))
    found: list[Coming] = []
    for each in coming(timetable, after, count):
        if left is not None and left <= 0:
            break
        found.append(left_out(left_out(each, _pause(row, each.at)), closed))
        if left is not None and found[-1].outcome is Expected.FIRE:
            left -= 1
    return found


def notes(timetable: Timetable, at: dt.datetime) -> Sequence[str]:
    """What is remarkable about a nominal time, whether or not something starts then."""
    found = outlook.marks(timetable, at)
    # What forbids it comes first, and is told as the reason.
    return found if forbidden_by(timetable, at) is None else found[1:]


def _coming(timetable: Timetable, each: Upcoming) -> Coming:
    reason = forbidden_by(timetable, each.at)
    outcome = Expected.FIRE if reason is None else Expected.SKIPPED_CALENDAR
    return Coming(each.at, each.local, outcome, reason, notes(timetable, each.at))


def _pause(row: ScheduleRow, at: dt.datetime) -> str | None:
    """Why nothing starts then, if that is in a pause."""
    if row.paused_at is None or (row.paused_until is not None and at >= row.paused_until):
        return None
    until = f" until {row.paused_until.isoformat(timespec='seconds')}" if row.paused_until else ""
    return f"paused by {row.paused_by}{until}"
