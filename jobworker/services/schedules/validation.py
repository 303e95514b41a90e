"""Validation of a schedule against SQL: its job with its parameters, its queue and its calendars."""

from collections.abc import Sequence

import sqlalchemy as sa

from jobworker.domain.errors import FieldError, InvalidInput, JobNotFound, raise_for_problems
from jobworker.domain.schedules.schedule import Schedule
from jobworker.domain.schedules.timetable import Timetable
from jobworker.services import lookup
from jobworker.services.calendars import calendars
from jobworker.services.submissions import preparation
from jobworker.store import tasks


def check_schedule(connection: sa.Connection, schedule: Schedule) -> Timetable:
    """Check a schedule and return its timetable. Raises `InvalidInput` with all problems.

    The calendars of the schedule are locked until the transaction ends.
    """
    raise_for_problems(
        [*validate_job(connection, schedule), *calendars.validate_schedule_calendars(connection, schedule)]
    )
    lookup.check_queue(connection, schedule.queue, "/queue")
    return schedule.build_timetable(calendars.load_calendars(connection, schedule.calendar_names, lock=True))


def validate_job(connection: sa.Connection, schedule: Schedule) -> Sequence[FieldError]:
    """Return the problems of a schedule's job and parameters."""
    try:
        definition = lookup.find_job(connection, schedule.job).definition
    except JobNotFound as error:
        return [FieldError("/job", error.code, error.detail)]
    task = tasks.get(connection, definition.task)
    parameters = {**definition.defaults, **schedule.parameters}
    try:
        preparation.check_parameters(task.parameters if task else (), parameters, "/parameters")
    except InvalidInput as error:
        return error.errors
    return ()
