"""Upcoming occurrences of a schedule: its next nominal times, and the expected outcome of each."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from jobworker.domain.schedules import next_times
from jobworker.domain.schedules.next_times import NominalTimePreview
from jobworker.domain.schedules.timetable import Timetable, describe_exclusion
from jobworker.store.schedules.schedule_rows import ScheduleRow


class ExpectedOutcome(StrEnum):
    """Expected outcome of an occurrence, as far as it can be known in advance."""

    #: The job starts, unless an earlier execution has not ended and the overlap policy skips the occurrence.
    FIRE = "expected"
    #: A calendar excludes the occurrence.
    SKIPPED_CALENDAR = "skipped_calendar"
    #: The occurrence is in a pause, or its job may not run (disabled, removed).
    SKIPPED_PAUSED = "skipped_paused"


@dataclass(frozen=True, slots=True)
class ExpectedOccurrence:
    """A nominal time in UTC and in the schedule's zone, with its expected outcome and the reason of a skip.

    `notes` describe remarkable properties: holidays, changes of the clock.
    """

    at: dt.datetime
    local: dt.datetime
    outcome: ExpectedOutcome
    reason: str | None
    notes: Sequence[str]


def list_expected(timetable: Timetable, after: dt.datetime, count: int) -> list[ExpectedOccurrence]:
    """Return the next `count` firing times, and before each the first time that calendars exclude, if any."""
    return [_to_expected(timetable, preview) for preview in next_times.compute_upcoming(timetable, after, count)]


def build_start_occurrence(timetable: Timetable, now: dt.datetime) -> ExpectedOccurrence:
    """Build the occurrence that a schedule with `run_at_start` has when it is created."""
    occurrence = _to_expected(timetable, NominalTimePreview(now, now.astimezone(timetable.zone), True, ()))
    return replace(occurrence, notes=[*occurrence.notes, "it runs at start"])


def apply_skip_reason(occurrence: ExpectedOccurrence, reason: str | None) -> ExpectedOccurrence:
    """Return the occurrence marked as skipped for `reason`; without a reason, or if already skipped, unchanged."""
    if reason is None or occurrence.outcome is not ExpectedOutcome.FIRE:
        return occurrence
    return replace(occurrence, outcome=ExpectedOutcome.SKIPPED_PAUSED, reason=reason)


def list_expected_for_schedule(
    row: ScheduleRow, timetable: Timetable, closed_reason: str | None, after: dt.datetime, count: int
) -> Sequence[ExpectedOccurrence]:
    """Return up to `count` unevaluated occurrences after `after`, by the current state of the schedule.

    `closed_reason`: reason why the job may not run, or None.
    """
    if row.next_at is None or not row.enabled:
        return []
    remaining_runs = None if row.schedule.max_runs is None else row.schedule.max_runs - row.runs
    after = max(after, row.settled_until, row.next_at - dt.timedelta(microseconds=1))
    occurrences: list[ExpectedOccurrence] = []
    for occurrence in list_expected(timetable, after, count):
        if remaining_runs is not None and remaining_runs <= 0:
            break
        occurrences.append(
            apply_skip_reason(apply_skip_reason(occurrence, _describe_pause(row, occurrence.at)), closed_reason)
        )
        if remaining_runs is not None and occurrences[-1].outcome is ExpectedOutcome.FIRE:
            remaining_runs -= 1
    return occurrences


def list_notes(timetable: Timetable, at: dt.datetime) -> Sequence[str]:
    """Return the notes on a nominal time, without the reason why calendars exclude it."""
    notes = next_times.describe_occurrence(timetable, at)
    # The reason of an exclusion comes first; it is shown as `reason`.
    return notes if describe_exclusion(timetable, at) is None else notes[1:]


def _to_expected(timetable: Timetable, upcoming: NominalTimePreview) -> ExpectedOccurrence:
    reason = describe_exclusion(timetable, upcoming.at)
    outcome = ExpectedOutcome.FIRE if reason is None else ExpectedOutcome.SKIPPED_CALENDAR
    return ExpectedOccurrence(upcoming.at, upcoming.local, outcome, reason, list_notes(timetable, upcoming.at))


def _describe_pause(row: ScheduleRow, at: dt.datetime) -> str | None:
    """Return the reason of a skip if `at` is in a pause, or None."""
    if row.paused_at is None or (row.paused_until is not None and at >= row.paused_until):
        return None
    until = f" until {row.paused_until.isoformat(timespec='seconds')}" if row.paused_until else ""
    return f"paused by {row.paused_by}{until}"
