"""The third step of a turn: schedules that are due are settled. Runs inside the turn's transaction."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain.executions.events import Event, EventKind
from jobworker.services.schedules import compiler, evaluator, failure_counter, pauses
from jobworker.services.schedules.evaluator import EvaluationSummary
from jobworker.services.schedules.failure_counter import EndedExecution
from jobworker.store.engine.database import Database
from jobworker.store.schedules import due_schedules

logger = structlog.get_logger(__name__)

#: Schedules that one turn finds due by itself.
_DUE_BATCH_SIZE = 2000

#: What is due so soon is read beforehand, so many schedules in a round.
_PRELOAD_AHEAD = dt.timedelta(minutes=5)
_PRELOAD_BATCH_SIZE = 200

#: Pauses that one round ends.
_PAUSE_BATCH_SIZE = 100

#: A relay that leads so soon after it was started (s) was started with the system; later it takes over from another.
_STARTUP_SECONDS = 10.0

_MIN_TIME = dt.datetime.min.replace(tzinfo=dt.UTC)


class ScheduleEvaluator:
    """What is due. Nothing here has to survive: whoever says next that a schedule is due has all of it settled.

    `looks`: nobody else does, so this one looks itself what is due.
    """

    def __init__(self, database: Database, clock: Clock, without_beat: bool) -> None:
        self._database = database
        self._clock = clock
        self._without_beat = without_beat
        self._evaluated_at = _MIN_TIME
        self._preload_cursor = _MIN_TIME, ""
        self._unfinished: Mapping[str, dt.datetime] = {}
        self._created_at: float | None = clock.monotonic()

    @property
    def has_pending(self) -> bool:
        """Whether there is something to do although nobody reports anything."""
        return bool(self._unfinished)

    def fire_startup_schedules(self, connection: sa.Connection, now: dt.datetime) -> None:
        """What runs whenever the system starts does so, if this is its start. Once it is committed, call `started`."""
        if self._created_at is not None and self._clock.monotonic() - self._created_at <= _STARTUP_SECONDS:
            evaluator.fire_at_start(
                connection, due_schedules.list_run_at_start(connection), now, "the relay was started"
            )

    def mark_started(self) -> None:
        """It is committed."""
        self._created_at = None

    def evaluate(
        self, connection: sa.Connection, reports: Sequence[Event], ended: Sequence[EndedExecution], now: dt.datetime
    ) -> EvaluationSummary:
        """Settle what is due, and what was left over. Once it is committed, call `done` with the answer."""
        failure_counter.count_failures(connection, ended, now)
        due = dict(self._unfinished)
        found = self._find_due(connection, now) if self._without_beat else {}
        for schedule, moment in (*_parse_due_events(reports), *found.items()):
            due[schedule] = max(moment, due.get(schedule, moment))
        return evaluator.evaluate_due(connection, due, now) if due else EvaluationSummary()

    def mark_committed(self, fired: EvaluationSummary, now: dt.datetime) -> None:
        """It is committed."""
        self._unfinished, self._evaluated_at = fired.unfinished, now

    def get_next_due(self, connection: sa.Connection) -> dt.datetime | None:
        """When there is something to settle, as far as this one has to notice that itself."""
        # What was due at the last look is settled, or cannot be.
        return due_schedules.get_next_due(connection, self._evaluated_at) if self._without_beat else None

    def end_expired_pauses(self) -> None:
        """Resume schedules whose pause has come to its end."""
        now = self._clock.now()
        with self._database.read() as connection:
            over = due_schedules.list_ended_pauses(connection, now, _PAUSE_BATCH_SIZE)
        for schedule_id in over:
            with self._database.write() as connection:
                pauses.end_expired_pause(connection, schedule_id, now)

    def preload_upcoming(self) -> None:
        """Read what will be due soon, so that nobody has to when 10,000 schedules are due at once."""
        now = self._clock.now()
        after, until = max(self._preload_cursor, (now, "")), now + _PRELOAD_AHEAD
        with self._database.read() as connection:
            rows = due_schedules.list_upcoming(connection, after, until, _PRELOAD_BATCH_SIZE)
            compiler.compile_schedules(connection, rows)
        self._preload_cursor = (rows[-1].next_at, rows[-1].id) if len(rows) == _PRELOAD_BATCH_SIZE else (until, "")

    def _find_due(self, connection: sa.Connection, now: dt.datetime) -> dict[str, dt.datetime]:
        # Those that cannot be read stay due, and must not keep the others from being found.
        return dict(due_schedules.list_due(connection, now, _DUE_BATCH_SIZE + compiler.count_unreadable()))


def _parse_due_events(reports: Sequence[Event]) -> Iterator[tuple[str, dt.datetime]]:
    """The ids of schedules that beat says are due, and when."""
    for event in reports:
        if event.kind is not EventKind.DUE:
            continue
        try:
            yield str(event.data["schedule"]), dt.datetime.fromisoformat(event.data["at"]).astimezone(dt.UTC)
        except (KeyError, TypeError, ValueError) as error:
            logger.error("event_unreadable", event_id=event.id, error=repr(error))
