"""Is it on time? Asked of SQL alone, so it is answered when beat and relay are not at work, above all then."""

import datetime as dt

from jobworker.store import schedule_lists
from jobworker.store.schedule_lists import Standing
from jobworker.store.schedules import ScheduleRow

#: So late an occurrence may be entered in the ledger: another beat, or relay, needs a while to take over (s).
PATIENCE = 60.0


def expected_by(row: ScheduleRow) -> dt.datetime | None:
    """When the next occurrence of a schedule is entered at the latest; None: nobody waits for one."""
    if row.next_at is None or schedule_lists.standing(row) is not Standing.ACTIVE:
        return None
    return row.next_at + dt.timedelta(seconds=PATIENCE)


def since(now: dt.datetime) -> dt.datetime:
    """What was due before this moment, and is not entered, is overdue."""
    return now - dt.timedelta(seconds=PATIENCE)
