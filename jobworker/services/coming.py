"""What is ahead of a schedule: its next nominal times, and what is to be expected of each."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from jobworker.domain.timetable import Timetable, forbidden_by, next_after
from jobworker.store.schedules import ScheduleRow


class Expected(StrEnum):
    """What will become of an occurrence, as far as that can be known."""

    #: Its job starts, unless an execution before it has not ended, and the schedule does not want that.
    FIRE = "expected"
    #: A calendar forbids it.
    SKIPPED_CALENDAR = "skipped_calendar"
    #: It lies in a pause.
    SKIPPED_PAUSED = "skipped_paused"


@dataclass(frozen=True, slots=True)
class Coming:
    """One nominal time, as UTC and as clocks of the schedule's zone show it; and why nothing starts then."""

    at: dt.datetime
    local: dt.datetime
    outcome: Expected
    reason: str | None


def coming(timetable: Timetable, after: dt.datetime) -> Iterator[Coming]:
    """What is due after this moment."""
    found = next_after(timetable, after)
    while found is not None:
        reason = forbidden_by(timetable, found)
        outcome = Expected.FIRE if reason is None else Expected.SKIPPED_CALENDAR
        yield Coming(found, found.astimezone(timetable.zone), outcome, reason)
        found = next_after(timetable, found)


def of_schedule(row: ScheduleRow, timetable: Timetable, after: dt.datetime, count: int) -> Sequence[Coming]:
    """Up to `count` of what is due after this moment, and not settled yet, as the schedule stands."""
    if row.next_at is None:
        return []
    left = None if row.schedule.max_runs is None else row.schedule.max_runs - row.runs
    after = max(after, row.settled_until, row.next_at - dt.timedelta(microseconds=1))
    found: list[Coming] = []
    for each in islice(coming(timetable, after), count):
        if left is not None and left <= 0:
            break
        found.append(_in_pause(row, each))
        if left is not None and found[-1].outcome is Expected.FIRE:
            left -= 1
    return found


def _in_pause(row: ScheduleRow, each: Coming) -> Coming:
    if row.paused_at is None or (row.paused_until is not None and each.at >= row.paused_until):
        return each
    until = f" until {row.paused_until.isoformat(timespec='seconds')}" if row.paused_until else ""
    return Coming(each.at, each.local, Expected.SKIPPED_PAUSED, f"paused by {row.paused_by}{until}")
