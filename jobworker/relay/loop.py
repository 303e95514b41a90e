"""The relay's loop. A turn is `read`, then `record → evaluate → resolve` in one transaction, then `trim`, the
maintenance tasks, and `cancel → check limits → dispatch`.

A turn commits everything it read together with the stream offsets; after a failure before the commit, the entries are
read again. Reading, recording and trimming come first, because they free memory in a full Redis; each later step fails
and is retried separately. New submissions are also dispatched before the recording, for low latency. Of several relays
one leads; the others stand by and take over within seconds.
"""

import contextlib
import threading
from dataclasses import astuple, replace
from datetime import datetime, timedelta

import redis
import sqlalchemy.exc
import structlog

from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError, DatabaseBusy
from jobworker.domain.executions import events
from jobworker.domain.executions.events import Event
from jobworker.relay import schedule_sync
from jobworker.relay.dependency_resolution import DependencyResolver
from jobworker.relay.dispatch import Dispatcher
from jobworker.relay.event_recorder import record_events
from jobworker.relay.leadership import Leadership
from jobworker.relay.log_lines import record_logs
from jobworker.relay.maintenance import Maintenance
from jobworker.relay.problems import RelayProblem, RelayProblems
from jobworker.relay.progress import record_progress
from jobworker.relay.scheduling import ScheduleRunner
from jobworker.relay.steps import NotLeader, RelayStep, StepRunner
from jobworker.relay.stop_requests import StopRequestSender
from jobworker.relay.stream_reader import EventBatch, StreamOffsets, StreamReader
from jobworker.services.schedules import time_zone_updates
from jobworker.settings import Settings
from jobworker.store import relay_state
from jobworker.store.database.database import UNAVAILABLE, Database, describe_error
from jobworker.store.executions import due_executions
from jobworker.store.workflows import dependency_rows
from jobworker.transport.claims import Claims
from jobworker.transport.client import check_server, connect_redis
from jobworker.transport.publisher import Publisher
from jobworker.transport.stop_requests import StopRequests

logger = structlog.get_logger(__name__)

#: Maximum wait between two turns (s): the delay that a lost notification causes.
_MAX_WAIT_SECONDS = 1.0

#: Minimum interval between turns (s), so that single jobs in quick succession do not keep a core busy.
_TURN_INTERVAL_SECONDS = 0.005

#: Events and messages from which a turn counts as busy, and the interval after it (s), which makes batches larger.
_BUSY_THRESHOLD, _BUSY_TURN_INTERVAL_SECONDS = 20, 0.1

#: Maximum time that a turn spends on log lines alone (s).
_LOG_FLOOD_SECONDS = 0.05

#: Interval between dispatch rounds while no events arrive (s).
_DISPATCH_INTERVAL_SECONDS = 0.1

#: Intervals between renewals of the leadership, and between trims of the streams (s).
_RENEWAL_INTERVAL_SECONDS, _TRIM_INTERVAL_SECONDS = 1.0, 1.0

#: Maximum number of executions that become due, or expire, in one turn.
_DUE_BATCH_SIZE = 1000

#: Interval between sweeps for missed dependents (s).
_SWEEP_INTERVAL_SECONDS = 2.0

#: Interval between preloads of schedules that are due soon (s).
_PRELOAD_INTERVAL_SECONDS = 0.5

#: Interval between checks for expired pauses of schedules (s).
_RESUME_INTERVAL_SECONDS = 1.0

#: The name of a turn in a relay problem.
_TURN = "turn"

#: Pause after a failed turn (s), doubled up to the second value.
_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 2.0


class Relay:
    """Dispatches executions from SQL to Redis and records events from Redis in SQL."""

    def __init__(self, database: Database, redis_url: str, clock: Clock, settings: Settings) -> None:
        # XREAD blocks for up to `_MAX_WAIT_SECONDS`; the timeout must exceed that.
        self._client = connect_redis(redis_url, timeout=_MAX_WAIT_SECONDS + 2.0)
        self._database = database
        self._clock = clock
        self._problems = RelayProblems(clock)
        self._steps = StepRunner(clock, self._problems)
        self._reader = StreamReader(self._client, self._problems)
        self._leadership = Leadership(database, clock)
        self._dispatcher = Dispatcher(
            database,
            Publisher(self._client),
            Claims(self._client),
            clock,
            settings.feed,
            self._leadership.name,
            timedelta(seconds=settings.ageing),
            self._problems,
        )
        self._stop_request_sender = StopRequestSender(database, StopRequests(self._client), clock)
        self._dependency_resolver = DependencyResolver(database, clock)
        self._schedule_evaluator = ScheduleRunner(database, clock, without_beat=not settings.needs_beat)
        self._maintenance = Maintenance(
            database, self._client, self._dispatcher, clock, settings, self._steps, self._problems
        )
        self._maintenance.add_task("dependents", _SWEEP_INTERVAL_SECONDS, self._dependency_resolver.resolve_missed)
        self._maintenance.add_task("plans", _PRELOAD_INTERVAL_SECONDS, self._schedule_evaluator.preload_upcoming)
        self._maintenance.add_task("pauses", _RESUME_INTERVAL_SECONDS, self._schedule_evaluator.end_expired_pauses)
        schedules = schedule_sync.ScheduleSynchronizer(database, clock, settings, self._problems)
        self._maintenance.add_task("declared_schedules", schedule_sync.RETRY_INTERVAL_SECONDS, schedules.synchronize)
        self._maintenance.add_task("problems", _RENEWAL_INTERVAL_SECONDS, self._save_problems)
        self._trim_step = RelayStep("trim", self._trim_streams, _TRIM_INTERVAL_SECONDS)
        self._pre_dispatch_steps = [
            # First, so that members of a cancelled batch are not dispatched.
            RelayStep("cancel_batches", self._dependency_resolver.cancel_batches),
            RelayStep("cancel", self._dispatcher.cancel_queued),
            RelayStep("stop", self._stop_request_sender.send_pending),
        ]
        self._dispatch_step = RelayStep("dispatch", self._dispatcher.dispatch)
        # A relay that checks for silent workers must check often, because only an observed silence counts.
        self._max_wait = min(_MAX_WAIT_SECONDS, settings.heartbeat_interval)
        self._offsets: StreamOffsets | None = None
        self._renewed_at = self._dispatched_at = float("-inf")
        self._is_redis_checked = self._is_leader = False
        self._saved_problems: list[RelayProblem] = []

    def run(self, stop: threading.Event) -> None:
        """Run turns until `stop` is set. No failure and no content of Redis or the database ends the loop.

        Raises `ConfigurationError` for a Redis that would lose work.
        """
        pause = _MIN_BACKOFF_SECONDS
        while not stop.is_set():
            began = self._clock.monotonic()
            try:
                done = self.run_turn()
            except NotLeader:
                self._offsets, self._is_leader = None, False
                self._clock.wait(stop, _RENEWAL_INTERVAL_SECONDS)
            except ConfigurationError:
                raise
            except Exception as error:  # noqa: BLE001  a failed turn must not end the relay
                self._log_failure(error, pause)
                self._clock.wait(stop, pause)
                pause = min(pause * 2, _MAX_BACKOFF_SECONDS)
            else:
                if pause > _MIN_BACKOFF_SECONDS:
                    self._problems.clear(_TURN)
                pause = _MIN_BACKOFF_SECONDS
                pace = _BUSY_TURN_INTERVAL_SECONDS if done >= _BUSY_THRESHOLD else _TURN_INTERVAL_SECONDS
                self._clock.wait(stop, max(0.0, pace - (self._clock.monotonic() - began)))
        self._resign()

    def _log_failure(self, error: Exception, pause: float) -> None:
        """Log the error that ended a turn; the next turn begins after `pause` seconds."""
        if isinstance(error, redis.RedisError):
            logger.warning("redis_away", error=str(error), next_try_in=pause)
            self._maintenance.postpone_rescue()
            self._maintenance.check_foreign_keys_soon()
            self._is_redis_checked = False  # The server that answers next may be another one.
        elif isinstance(error, UNAVAILABLE):
            logger.warning("database_away", error=str(getattr(error, "orig", error)), next_try_in=pause)
        else:
            self._problems.report("turn_failed", _TURN, f"{type(error).__name__}: {error}")

    def run_turn(self) -> int:
        """Run one turn; return how many events and messages it moved.

        Raises `NotLeader`, or an error of Redis or the database; no event is lost then.
        """
        self._check_redis_once()
        offsets = self._offsets or self._acquire_leadership()
        self._maintenance.run_before_reading()
        if self._maintenance.consume_new_epoch():
            offsets = self._acquire_leadership()
        due = self._get_next_due()
        batch = self._reader.read(offsets, self._compute_wait(due))
        # A client waits for its new submission; no client waits for the recording of events.
        sent = self._dispatch_ready() if batch.is_notified else 0
        first, lines = batch.split(offsets)
        released = self._record_batch(offsets, first) if first or self._needs_commit(due) else 0
        self._record_log_flood(lines)
        self._steps.run(self._trim_step)
        self._maintenance.run_due_tasks()
        if released or self._clock.monotonic() - self._dispatched_at >= _DISPATCH_INTERVAL_SECONDS:
            sent += self._dispatch_ready()
        return len(batch.events) + sent

    def _record_log_flood(self, batch: EventBatch) -> None:
        """Record the log lines of a flood in several transactions, for a limited time."""
        until = self._clock.monotonic() + _LOG_FLOOD_SECONDS
        while batch.logs and self._offsets:
            self._record_batch(self._offsets, batch)
            if not batch.has_more_logs or self._clock.monotonic() >= until:
                return
            batch = self._reader.read_logs(self._offsets)

    def _record_batch(self, offsets: StreamOffsets, batch: EventBatch) -> int:
        """Commit a batch. An event that the database refuses must not block the others."""
        answer = self._try_to_commit(offsets, batch)
        if not isinstance(answer, Exception):
            return answer
        reports = [*batch.events, *batch.logs]
        if not reports:
            raise answer
        if len(reports) == 1:
            return self._record_refused(offsets, batch, reports[0])
        return sum(self._record_batch(self._offsets or offsets, part) for part in batch.split_by_event(offsets))

    def _record_refused(self, offsets: StreamOffsets, batch: EventBatch, report: Event) -> int:
        """Commit a refused event, or a failure of its attempt in its place if the event ends the attempt.

        Raises an error if a transaction without any event fails, too: then the event is not the cause.
        """
        self._commit(offsets, EventBatch(offsets, has_more_logs=True))
        nothing = replace(batch, events=[], logs=[])
        answer = self._try_to_commit(offsets, batch)
        if isinstance(answer, Exception):
            _log_refusal(report, answer)
            if report.kind in events.ATTEMPT_END_KINDS:
                refusal = events.build_refused_event(report, describe_error(answer))
                answer = self._try_to_commit(offsets, replace(nothing, events=[refusal]))
        return self._commit(offsets, nothing) if isinstance(answer, Exception) else answer

    def _try_to_commit(self, offsets: StreamOffsets, batch: EventBatch) -> int | Exception:
        """Return the result of `_commit`, or the error that the batch caused. Raises all other errors."""
        try:
            return self._commit(offsets, batch)
        except (NotLeader, redis.RedisError, *UNAVAILABLE):
            raise
        except Exception as error:  # noqa: BLE001  no event may stop the relay; the caller logs the error
            return error

    def _commit(self, offsets: StreamOffsets, batch: EventBatch) -> int:
        """Commit a batch with its stream offsets; return how many executions may be ready for dispatch now."""
        now = self._clock.now()
        with self._database.write() as connection:
            moved = astuple(offsets), astuple(batch.offsets)
            if not relay_state.advance_offsets(connection, self._leadership.name, now, *moved, not batch.has_more_logs):
                raise NotLeader
            record_progress(connection, batch.events)
            recorded = record_events(connection, batch.events)
            record_logs(connection, batch.logs)
            fired = self._schedule_evaluator.evaluate(connection, batch.events, recorded.schedule_ends, now)
            expired = due_executions.expire_executions(connection, now, _DUE_BATCH_SIZE)
            ended = [*recorded.ended, *dependency_rows.find_ended(connection, expired)]
            freed = self._dependency_resolver.resolve_dependents(connection, ended, now)
            due = due_executions.release_due(connection, now, _DUE_BATCH_SIZE)
        self._dependency_resolver.mark_committed(freed)
        self._schedule_evaluator.mark_committed(fired, now)
        self._offsets = batch.offsets
        self._renewed_at = self._clock.monotonic()
        self._dispatcher.record_claims(recorded.claimed)
        self._dispatcher.record_declined_messages(recorded.declined)
        # Every event may have released capacity for an execution that a limit blocked.
        return fired.count + freed.released_count + due + (len(batch.events) if self._dispatcher.is_limited else 0)

    def _dispatch_ready(self) -> int:
        """Run the cancellations and a dispatch round; return how many messages were published."""
        self._dispatched_at = self._clock.monotonic()
        for step in self._pre_dispatch_steps:
            self._steps.run(step)
        return self._steps.run(self._dispatch_step)

    def _needs_commit(self, due: datetime | None) -> bool:
        """Return whether a transaction is necessary although no event was read."""
        renew = self._clock.monotonic() - self._renewed_at >= _RENEWAL_INTERVAL_SECONDS
        return renew or self._has_pending or (due is not None and due <= self._clock.now())

    def _acquire_leadership(self) -> StreamOffsets:
        try:
            silent = self._leadership.find_silent_leader()
            with self._database.write() as connection:
                self._leadership.acquire_or_renew(connection, silent)
                self._schedule_evaluator.fire_startup_schedules(connection, self._clock.now())
                offsets = relay_state.restore_offsets(connection)
        except NotLeader:
            self._maintenance.run_standby_tasks()
            raise
        time_zone_updates.apply_zone_data(self._database, self._clock, self._leadership.acquire_or_renew)
        self._schedule_evaluator.mark_started()
        if not self._is_leader:
            logger.info("relay_leads", relay=self._leadership.name)
        self._is_leader = True
        self._renewed_at = self._clock.monotonic()
        self._offsets = StreamOffsets(*offsets)
        return self._offsets

    def _get_next_due(self) -> datetime | None:
        with self._database.read() as connection:
            moments = [due_executions.get_next_due(connection), self._schedule_evaluator.get_next_due(connection)]
        return min((moment for moment in moments if moment is not None), default=None)

    def _compute_wait(self, due: datetime | None) -> float:
        if self._has_pending:
            return 0.0
        longest = _DISPATCH_INTERVAL_SECONDS if self._dispatcher.has_undecided_revocations else self._max_wait
        moments = [moment for moment in (due, self._dispatcher.next_permit_at) if moment is not None]
        if not moments:
            return longest
        return min(longest, max(0.0, (min(moments) - self._clock.now()).total_seconds()))

    @property
    def _has_pending(self) -> bool:
        return self._dependency_resolver.has_pending or self._schedule_evaluator.has_pending

    def _trim_streams(self) -> None:
        if self._offsets:
            self._reader.trim(self._offsets)

    def _save_problems(self) -> None:
        """Write changed problems to SQL, for `/readyz`."""
        current = self._problems.list_with_unreadable_rows()
        if current != self._saved_problems:
            with self._database.write() as connection:
                relay_state.update_problems(
                    connection, self._leadership.name, [problem.to_json() for problem in current]
                )
            self._saved_problems = current

    def _check_redis_once(self) -> None:
        if not self._is_redis_checked:
            check_server(self._client)
            self._is_redis_checked = True

    def _resign(self) -> None:
        with contextlib.suppress(redis.RedisError, sqlalchemy.exc.SQLAlchemyError, DatabaseBusy):
            if self._is_leader:
                self._maintenance.update_workers()  # Workers that stopped before this relay are not shown as live.
        try:
            with self._database.write() as connection:
                relay_state.release_leadership(connection, self._leadership.name)
        except (sqlalchemy.exc.SQLAlchemyError, DatabaseBusy) as error:
            logger.warning("relay_could_not_resign", error=str(error))


def _log_refusal(report: Event, error: Exception) -> None:
    """Log that an event could not be recorded, without data and traceback: both contain results and output of jobs."""
    fields = {"report": report.id, "kind": report.kind.value, "execution": report.execution, "attempt": report.attempt}
    logger.error("report_refused", **fields, error=describe_error(error))
