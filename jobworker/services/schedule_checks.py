"""What only SQL can say about a schedule: whether its job is there, with these parameters, and its calendars are."""

from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa

from jobworker.domain import admission
from jobworker.domain.calendars import Business, Calendar
from jobworker.domain.errors import FieldError, InvalidInput, JobNotFound
from jobworker.domain.rules.days import BusinessDay
from jobworker.domain.schedule import Schedule
from jobworker.domain.timetable import Timetable
from jobworker.services import jobs as job_services
from jobworker.services import preparing
from jobworker.store import tasks


def check(connection: sa.Connection, schedule: Schedule, where: str = "") -> Timetable:
    """When the schedule is due; raises `InvalidInput` with everything that keeps it from being kept."""
    calendars: Mapping[str, Calendar] = {}
    admission.refuse([*_job(connection, schedule, where), *_named(schedule, calendars, where)])
    return schedule.timetable(calendars)


def _job(connection: sa.Connection, schedule: Schedule, where: str) -> Sequence[FieldError]:
    try:
        definition = job_services.find(connection, schedule.job).definition
    except JobNotFound as error:
        return [FieldError(f"{where}/job", error.code, error.detail)]
    task = tasks.get(connection, definition.task)
    given = {**definition.defaults, **schedule.parameters}
    try:
        preparing.check_parameters(task.parameters if task else (), given, f"{where}/parameters")
    except InvalidInput as error:
        return error.errors
    return ()


def _named(schedule: Schedule, calendars: Mapping[str, Calendar], where: str) -> Iterator[FieldError]:
    """Every calendar must be there, and the one by which business days are counted must have some."""
    counted = calendars.get(schedule.calendar or "")
    if counted is not None and isinstance(schedule.rule, BusinessDay) and not isinstance(counted, Business):
        message = f"calendar {schedule.calendar} only lists dates; business days need a calendar of the kind business"
        yield FieldError(f"{where}/calendar", "not_allowed", message)
    for place, name in _places(schedule):
        if name not in calendars:
            yield FieldError(f"{where}{place}", "unknown_calendar", f"there is no calendar {name!r}")


def _places(schedule: Schedule) -> Iterator[tuple[str, str]]:
    """Where in the specification which calendar is named."""
    if schedule.calendar:
        yield "/calendar", schedule.calendar
    yield from ((f"/require/{at}", name) for at, name in enumerate(schedule.require))
    yield from ((f"/exclude/{at}", name) for at, name in enumerate(schedule.exclude))
