"""What is ahead of a schedule: its next nominal times, and what is to be expected of each."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from jobworker.domain.schedules import next_times
from jobworker.domain.schedules.next_times import NominalTimePreview
from jobworker.domain.schedules.timetable import Timetable, describe_exclusion
from jobworker.store.schedules.schedule_rows import ScheduleRow


class ExpectedOutcome(StrEnum):
    """What will become of an occurrence, as far as that can be known."""

    #: Its job starts, unless an execution before it has not ended, and the schedule does not want that.
    FIRE = "expected"
    #: A calendar forbids it.
    SKIPPED_CALENDAR = "skipped_calendar"
    #: It lies in a pause, or its job is disabled.
    SKIPPED_PAUSED = "skipped_paused"


@dataclass(frozen=True, slots=True)
class ExpectedOccurrence:
    """One nominal time, as UTC and as clocks of the schedule's zone show it; why nothing starts then, if so.

    `notes` say what is remarkable about it: holidays, clocks that change.
    """

    at: dt.datetime
    local: dt.datetime
    outcome: ExpectedOutcome
    reason: str | None
    notes: Sequence[str]


def list_expected(timetable: Timetable, after: dt.datetime, count: int) -> list[ExpectedOccurrence]:
    """The next `count` times at which something starts, and before each the first that calendars forbid, if any."""
    return [_to_expected(timetable, each) for each in next_times.compute_upcoming(timetable, after, count)]


def build_start_occurrence(timetable: Timetable, now: dt.datetime) -> ExpectedOccurrence:
    """The occurrence that a schedule has when it is created, if it runs at start."""
    one = _to_expected(timetable, NominalTimePreview(now, now.astimezone(timetable.zone), True, ()))
    return replace(one, notes=[*one.notes, "it runs at start"])


def apply_skip_reason(occurrence: ExpectedOccurrence, reason: str | None) -> ExpectedOccurrence:
    """The same if something keeps the schedule from starting anything then; None: nothing does."""
    if reason is None or occurrence.outcome is not ExpectedOutcome.FIRE:
        return occurrence
    return replace(occurrence, outcome=ExpectedOutcome.SKIPPED_PAUSED, reason=reason)


def list_expected_for_schedule(
    row: ScheduleRow, timetable: Timetable, closed_reason: str | None, after: dt.datetime, count: int
) -> Sequence[ExpectedOccurrence]:
    """Up to `count` of what is due after this moment, and not settled yet, as the schedule stands.

    `closed_reason`: why nothing of its job may run.
    """
    if row.next_at is None or not row.enabled:
        return []
    left = None if row.schedule.max_runs is None else row.schedule.max_runs - row.runs
    after = max(after, row.settled_until, row.next_at - dt.timedelta(microseconds=1))
    found: list[ExpectedOccurrence] = []
    for each in list_expected(timetable, after, count):
        if left is not None and left <= 0:
            break
        found.append(apply_skip_reason(apply_skip_reason(each, _describe_pause(row, each.at)), closed_reason))
        if left is not None and found[-1].outcome is ExpectedOutcome.FIRE:
            left -= 1
    return found


def list_notes(timetable: Timetable, at: dt.datetime) -> Sequence[str]:
    """What is remarkable about a nominal time, whether or not something starts then."""
    found = next_times.describe_occurrence(timetable, at)
    # What forbids it comes first, and is told as the reason.
    return found if describe_exclusion(timetable, at) is None else found[1:]


def _to_expected(timetable: Timetable, upcoming: NominalTimePreview) -> ExpectedOccurrence:
    reason = describe_exclusion(timetable, upcoming.at)
    outcome = ExpectedOutcome.FIRE if reason is None else ExpectedOutcome.SKIPPED_CALENDAR
    return ExpectedOccurrence(upcoming.at, upcoming.local, outcome, reason, list_notes(timetable, upcoming.at))


def _describe_pause(row: ScheduleRow, at: dt.datetime) -> str | None:
    """Why nothing starts then, if that is in a pause."""
    if row.paused_at is None or (row.paused_until is not None and at >= row.paused_until):
        return None
    until = f" until {row.paused_until.isoformat(timespec='seconds')}" if row.paused_until else ""
    return f"paused by {row.paused_by}{until}"
