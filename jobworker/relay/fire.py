"""The third step of a turn: schedules that are said to be due are settled. Runs inside the turn's transaction."""

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa
import structlog

from jobworker.domain.events import Event, Kind
from jobworker.services import firing

logger = structlog.get_logger(__name__)


def fire(connection: sa.Connection, reports: Sequence[Event], now: dt.datetime) -> int:
    """Settle every schedule that beat says is due; answers how many executions that made."""
    due: dict[str, dt.datetime] = {}
    for event in reports:
        if event.kind is Kind.DUE and (read := _read(event)):
            schedule, at = read
            due[schedule] = max(at, due.get(schedule, at))
    return sum(firing.settle(connection, schedule, max(at, now), now) for schedule, at in due.items())


def _read(event: Event) -> tuple[str, dt.datetime] | None:
    """The id of a schedule, and the nominal time at which it is due."""
    try:
        return str(event.data["schedule"]), dt.datetime.fromisoformat(event.data["at"]).astimezone(dt.UTC)
    except (KeyError, TypeError, ValueError) as error:
        logger.error("event_unreadable", event_id=event.id, error=repr(error), data=event.data)
        return None
