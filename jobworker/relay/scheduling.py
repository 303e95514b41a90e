"""Evaluation of due schedules, in the transaction of a relay turn."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain.executions.events import Event, EventKind
from jobworker.services.schedules import compiler, evaluator, failure_counter, pauses
from jobworker.services.schedules.evaluator import EvaluationSummary
from jobworker.services.schedules.failure_counter import EndedExecution
from jobworker.store.database.database import Database
from jobworker.store.schedules import due_schedules

logger = structlog.get_logger(__name__)

#: Maximum number of due schedules that one turn reads from SQL.
_DUE_BATCH_SIZE = 2000

#: Time ahead for which schedules are preloaded, and maximum number of schedules per round.
_PRELOAD_AHEAD = dt.timedelta(minutes=5)
_PRELOAD_BATCH_SIZE = 200

#: Maximum number of pauses that one round ends.
_PAUSE_BATCH_SIZE = 100

#: Time from its start within which a relay that becomes the leader was started with the system (s); a relay that leads
#: later takes over from another one.
_STARTUP_SECONDS = 10.0

_MIN_TIME = dt.datetime.min.replace(tzinfo=dt.UTC)


class ScheduleRunner:
    """Evaluates due schedules once per relay turn. Holds no durable state, because the next event covers a lost one.

    `without_beat`: query SQL for due schedules instead of waiting for beat's events.
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
        """True if schedules are left to evaluate although no event was read."""
        return bool(self._unfinished)

    def fire_startup_schedules(self, connection: sa.Connection, now: dt.datetime) -> None:
        """Fire `run_at_start` schedules if this relay started with the system.

        Call `mark_started` after the commit.
        """
        if self._created_at is not None and self._clock.monotonic() - self._created_at <= _STARTUP_SECONDS:
            evaluator.fire_at_start(
                connection, due_schedules.list_run_at_start(connection), now, "the relay was started"
            )

    def mark_started(self) -> None:
        """Record that the startup schedules were fired in a committed transaction."""
        self._created_at = None

    def evaluate(
        self, connection: sa.Connection, reports: Sequence[Event], ended: Sequence[EndedExecution], now: dt.datetime
    ) -> EvaluationSummary:
        """Evaluate due schedules and those left over from the last call, and count failures of ended executions.

        Call `mark_committed` with the result once the transaction is committed.
        """
        failure_counter.count_failures(connection, ended, now)
        due = dict(self._unfinished)
        due_without_beat = self._find_due(connection, now) if self._without_beat else {}
        for schedule, moment in (*_parse_due_events(reports), *due_without_beat.items()):
            due[schedule] = max(moment, due.get(schedule, moment))
        return evaluator.evaluate_due(connection, due, now) if due else EvaluationSummary()

    def mark_committed(self, fired: EvaluationSummary, now: dt.datetime) -> None:
        """Keep the unfinished schedules of a committed evaluation for the next call."""
        self._unfinished, self._evaluated_at = fired.unfinished, now

    def get_next_due(self, connection: sa.Connection) -> dt.datetime | None:
        """Return when the next schedule is due; None with beat, whose events report that."""
        # Schedules due at the last evaluation are evaluated, or cannot be.
        return due_schedules.get_next_due(connection, self._evaluated_at) if self._without_beat else None

    def end_expired_pauses(self) -> None:
        """Resume schedules whose pause has expired."""
        now = self._clock.now()
        with self._database.read() as connection:
            schedule_ids = due_schedules.list_ended_pauses(connection, now, _PAUSE_BATCH_SIZE)
        for schedule_id in schedule_ids:
            with self._database.write() as connection:
                pauses.end_expired_pause(connection, schedule_id, now)

    def preload_upcoming(self) -> None:
        """Compile schedules that are due soon, so that 10,000 schedules due at once need no reads."""
        now = self._clock.now()
        after, until = max(self._preload_cursor, (now, "")), now + _PRELOAD_AHEAD
        with self._database.read() as connection:
            rows = due_schedules.list_upcoming(connection, after, until, _PRELOAD_BATCH_SIZE)
            compiler.compile_schedules(connection, rows)
        self._preload_cursor = (rows[-1].next_at, rows[-1].id) if len(rows) == _PRELOAD_BATCH_SIZE else (until, "")

    def _find_due(self, connection: sa.Connection, now: dt.datetime) -> dict[str, dt.datetime]:
        # Unreadable schedules stay due, and must not crowd out the others.
        return dict(due_schedules.list_due(connection, now, _DUE_BATCH_SIZE + compiler.count_unreadable()))


def _parse_due_events(reports: Sequence[Event]) -> Iterator[tuple[str, dt.datetime]]:
    """Yield the id and the due time of each schedule that beat reports as due."""
    for event in reports:
        if event.kind is not EventKind.DUE:
            continue
        try:
            yield str(event.data["schedule"]), dt.datetime.fromisoformat(event.data["at"]).astimezone(dt.UTC)
        except (KeyError, TypeError, ValueError) as error:
            logger.error("event_unreadable", event_id=event.id, error=repr(error))
