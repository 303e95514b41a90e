"""State and status of a schedule, and the time from which a new or changed schedule is due."""

import datetime as dt
from enum import StrEnum

from jobworker.domain.schedules.schedule import Schedule, ScheduleState


class ScheduleStatus(StrEnum):
    """Status of a schedule: `active` if it starts executions, else the first of these reasons that applies."""

    #: The schedule was declared in code and no longer is.
    RETIRED = "retired"
    #: The schedule has no further occurrences.
    EXHAUSTED = "exhausted"
    #: The specification of the schedule has `enabled: false`.
    DISABLED = "disabled"
    #: The schedule was paused by a user, or by `pause_after_failures`.
    PAUSED = "paused"
    #: The schedule starts executions.
    ACTIVE = "active"


def compute_status(
    state: ScheduleState,
    enabled: bool,
    paused_at: dt.datetime | None,
    paused_until: dt.datetime | None,
    now: dt.datetime,
) -> ScheduleStatus:
    """Return the status of a schedule at `now`. A pause whose end has passed does not count, recorded or not."""
    if state is not ScheduleState.ACTIVE:
        return ScheduleStatus(state.value)
    if not enabled:
        return ScheduleStatus.DISABLED
    paused = paused_at is not None and (paused_until is None or paused_until > now)
    return ScheduleStatus.PAUSED if paused else ScheduleStatus.ACTIVE


def compute_start(schedule: Schedule, settled_until: dt.datetime | None, now: dt.datetime) -> dt.datetime:
    """Return the time after which a schedule that is stored at `now` has occurrences.

    `settled_until` is that of the stored schedule that it replaces; None for a new schedule.
    """
    if settled_until is None:
        return now + dt.timedelta(seconds=schedule.initial_delay)
    return max(now, settled_until)


def compute_state(schedule: Schedule, runs: int, next_at: dt.datetime | None) -> ScheduleState:
    """Return the state of a schedule that has had `runs` executions and whose next occurrence is at `next_at`."""
    over = next_at is None or has_reached_max_runs(schedule, runs)
    return ScheduleState.EXHAUSTED if over else ScheduleState.ACTIVE


def has_reached_max_runs(schedule: Schedule, runs: int) -> bool:
    """Return True if a schedule that has had `runs` executions may have no further one."""
    return schedule.max_runs is not None and runs >= schedule.max_runs
