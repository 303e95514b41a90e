"""The third step of a turn: schedules that are said to be due are settled. Runs inside the turn's transaction."""

import datetime as dt
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
import structlog

from jobworker.domain.events import Event, Kind
from jobworker.services import firing
from jobworker.services.firing import Fired

logger = structlog.get_logger(__name__)


class Schedules:
    """What is due. Nothing here has to survive: whoever says next that a schedule is due has all of it settled."""

    def __init__(self) -> None:
        self._unfinished: Mapping[str, dt.datetime] = {}

    @property
    def pending(self) -> bool:
        """Whether there is something to do although nobody reports anything."""
        return bool(self._unfinished)

    def fire(self, connection: sa.Connection, reports: Sequence[Event], now: dt.datetime) -> Fired:
        """Settle what is said to be due, and what was left over. Once it is committed, call `done` with the answer."""
        due = dict(self._unfinished)
        for event in reports:
            if event.kind is Kind.DUE and (read := _read(event)):
                schedule, at = read
                due[schedule] = max(at, due.get(schedule, at))
        return firing.settle(connection, due, now) if due else Fired()

    def done(self, fired: Fired) -> None:
        """It is committed."""
        self._unfinished = fired.unfinished


def _read(event: Event) -> tuple[str, dt.datetime] | None:
    """The id of a schedule, and the nominal time at which it is due."""
    try:
        return str(event.data["schedule"]), dt.datetime.fromisoformat(event.data["at"]).astimezone(dt.UTC)
    except (KeyError, TypeError, ValueError) as error:
        logger.error("event_unreadable", event_id=event.id, error=repr(error), data=event.data)
        return None
