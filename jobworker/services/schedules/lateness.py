"""Is it on time? Asked of SQL alone, so it is answered when beat and relay are not at work, above all then."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from jobworker.domain.schedules.state import ScheduleStatus
from jobworker.store.schedules import schedule_queries
from jobworker.store.schedules.schedule_rows import ScheduleRow

#: So late an occurrence may be entered in the ledger: another beat, or relay, needs a while to take over (s).
GRACE_SECONDS = 60.0

_GRACE = dt.timedelta(seconds=GRACE_SECONDS)

#: What is due after this is due when time ends.
_MAX_DUE_TIME = dt.datetime.max.replace(tzinfo=dt.UTC) - _GRACE

#: So many are named; when there are more, it is not one of them that is to blame.
_MAX_NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class OverdueSchedules:
    """How many schedules are overdue, and the worst of them: their names, and since when each is due."""

    count: int
    worst: Sequence[tuple[str, dt.datetime]]

    def describe(self, now: dt.datetime) -> str:
        """In a few words."""
        shown = ", ".join(f"{name} (due {(now - at).total_seconds():.0f} s ago)" for name, at in self.worst)
        more = f" and {self.count - len(self.worst)} more" if self.count > len(self.worst) else ""
        return f"{self.count} overdue: {shown}{more}"

    def compute_lateness(self, now: dt.datetime) -> float:
        """How long ago (s) the worst was due; 0: none is overdue."""
        return (now - self.worst[0][1]).total_seconds() if self.worst else 0.0


def compute_expected_by(row: ScheduleRow, now: dt.datetime) -> dt.datetime | None:
    """When the next occurrence of a schedule is entered at the latest; None: nobody waits for one.

    After a pause whose end has come, that of what it held up.
    """
    if row.next_at is None or row.compute_status(now) is not ScheduleStatus.ACTIVE:
        return None
    due = max(row.next_at, row.paused_until or row.next_at)
    return due + _GRACE if due <= _MAX_DUE_TIME else None


def compute_cutoff(now: dt.datetime) -> dt.datetime:
    """What was due before this moment, and is not entered, is overdue."""
    return now - _GRACE


def find_overdue(connection: sa.Connection, now: dt.datetime) -> OverdueSchedules:
    """Which schedules should have been due by now, and nothing came of it."""
    before = compute_cutoff(now)
    return OverdueSchedules(
        schedule_queries.count_overdue(connection, before),
        schedule_queries.list_overdue(connection, before, _MAX_NAMES_SHOWN),
    )
