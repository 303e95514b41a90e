"""Ownership of schedules: which schedules the API may change, and the remedy for the others."""

from jobworker.domain.errors import ScheduleOwnedElsewhere
from jobworker.domain.schedules.schedule import ScheduleOwner, ScheduleState
from jobworker.store.schedules.schedule_rows import ScheduleRow


def suggest_alternative(row: ScheduleRow) -> str:
    """Return the remedy for a client that wants to create a schedule with the name of this one."""
    if row.state is ScheduleState.RETIRED:
        return "it is retired because code no longer declares it; DELETE it first"
    if row.owner is ScheduleOwner.CODE:
        return "it is declared in code; change it there (schedules/*.py), or choose another name"
    if row.owner is ScheduleOwner.JOB:
        return f"it is part of the definition of job {row.job}; change it there, or choose another name"
    return "change it with PUT and If-Match"


def check_editable(row: ScheduleRow) -> None:
    """Raise `ScheduleOwnedElsewhere` unless the API may change the schedule."""
    if row.state is ScheduleState.RETIRED:
        message = f"schedule {row.name} is retired, code declares it no more; DELETE it, then create it anew"
        raise ScheduleOwnedElsewhere(message)
    if row.owner is ScheduleOwner.CODE:
        message = f"schedule {row.name} is declared in code; change it there (schedules/*.py)"
        raise ScheduleOwnedElsewhere(message)
    if row.owner is ScheduleOwner.JOB:
        message = f"schedule {row.name} is part of the definition of its job; change it with PUT /api/v1/jobs/{row.job}"
        raise ScheduleOwnedElsewhere(message)
