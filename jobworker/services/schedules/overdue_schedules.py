"""Lateness of schedules, computed from SQL alone, so that it is known while beat and relay are not running."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.schedules.state import ScheduleStatus
from jobworker.store.schedules import schedule_queries
from jobworker.store.schedules.schedule_rows import ScheduleRow

#: Maximum delay between a nominal time and its evaluation (s); the takeover by another beat or relay takes time.
GRACE_SECONDS = 60.0

_GRACE = dt.timedelta(seconds=GRACE_SECONDS)

#: Maximum due time to which the grace can be added without an overflow.
_MAX_DUE_TIME = dt.datetime.max.replace(tzinfo=dt.UTC) - _GRACE

#: Maximum number of overdue schedules named; if more are overdue, the cause is not a single schedule.
_MAX_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class OverdueSchedules:
    """Number of overdue schedules, and the worst of them: (name, due time)."""

    count: int
    worst: Sequence[tuple[str, dt.datetime]]

    def describe(self, now: dt.datetime) -> str:
        """Return a one-line description."""
        shown = ", ".join(f"{name} (due {(now - at).total_seconds():.0f} s ago)" for name, at in self.worst)
        more = f" and {self.count - len(self.worst)} more" if self.count > len(self.worst) else ""
        return f"{self.count} overdue: {shown}{more}"

    def compute_lateness(self, now: dt.datetime) -> float:
        """Return the lateness of the worst schedule (s); 0 if no schedule is overdue."""
        return (now - self.worst[0][1]).total_seconds() if self.worst else 0.0


def compute_expected_by(row: ScheduleRow, now: dt.datetime) -> dt.datetime | None:
    """Return the latest time at which the next occurrence should be recorded; None if no occurrence is expected.

    If the end of a pause has passed, the time counts from that end, at which the skipped occurrences are due.
    """
    if row.next_at is None or row.compute_status(now) is not ScheduleStatus.ACTIVE:
        return None
    due = max(row.next_at, row.paused_until or row.next_at)
    return due + _GRACE if due <= _MAX_DUE_TIME else None


def compute_cutoff(now: dt.datetime) -> dt.datetime:
    """Return the time before which an occurrence was due that is overdue now if it is not recorded."""
    return now - _GRACE


def find_overdue(connection: sa.Connection, now: dt.datetime) -> OverdueSchedules:
    """Return the schedules with a due occurrence that was not recorded in time."""
    before = compute_cutoff(now)
    return OverdueSchedules(
        schedule_queries.count_overdue(connection, before),
        schedule_queries.list_overdue(connection, before, _MAX_NAMES_SHOWN),
    )
