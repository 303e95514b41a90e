"""The relay: one loop. A turn is `read`, then `record → fire → release` in one transaction, then `trim`, the
maintenance tasks, and `cancel → gate → dispatch` of what is ready.

A turn writes one transaction with everything it read and how far it read; whatever fails before the
commit is read again. Reading, recording and trimming come first, because they give a full Redis room again;
each step after them fails and is tried again by itself. What was just submitted is dispatched before the recording
as well, for its latency. Of several relays one leads; the others stand by and take over within seconds.
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
from jobworker.relay.cancellation import StopRequestSender
from jobworker.relay.dependency_resolution import DependencyResolver
from jobworker.relay.dispatch import Dispatcher
from jobworker.relay.event_recorder import record_events
from jobworker.relay.leadership import Leadership
from jobworker.relay.log_lines import record_logs
from jobworker.relay.maintenance import Maintenance
from jobworker.relay.problems import RelayProblem, RelayProblems
from jobworker.relay.progress import record_progress
from jobworker.relay.scheduling import ScheduleEvaluator
from jobworker.relay.steps import NotLeader, RelayStep, StepRunner
from jobworker.relay.stream_reader import EventBatch, StreamOffsets, StreamReader
from jobworker.services.schedules import time_zone_updates
from jobworker.settings import Settings
from jobworker.store import relay_state
from jobworker.store.engine.database import UNAVAILABLE, Database, describe_error
from jobworker.store.executions import dependency_rows, due_executions
from jobworker.transport.claims import Claims
from jobworker.transport.client import check_server, connect_redis
from jobworker.transport.publisher import Publisher
from jobworker.transport.stop_requests import StopRequests

logger = structlog.get_logger(__name__)

#: Longest sleep between two turns (s): what a lost wake-up costs.
_MAX_WAIT_SECONDS = 1.0

#: Turns follow each other at this distance (s), so that one job after another does not keep a core busy.
_TURN_INTERVAL_SECONDS = 0.005

#: A turn that moved so many reports and messages is followed at this distance (s), for larger batches.
_BUSY_THRESHOLD, _BUSY_TURN_INTERVAL_SECONDS = 20, 0.1

#: How long a turn goes on with nothing but log lines (s).
_LOG_FLOOD_SECONDS = 0.05

#: How often the feed is filled while nothing new comes in (s).
_DISPATCH_INTERVAL_SECONDS = 0.1

#: How often the leader renews its leadership (s).
_RENEWAL_INTERVAL_SECONDS = 1.0

#: How often the streams are trimmed (s).
_TRIM_INTERVAL_SECONDS = 1.0

#: Executions that become due in one turn.
_DUE_BATCH_SIZE = 1000

#: How often is looked for what should have been let go on (s).
_SWEEP_INTERVAL_SECONDS = 2.0

#: How often schedules that are due soon are read (s).
_PRELOAD_INTERVAL_SECONDS = 0.5

#: How often is looked for pauses of schedules that have come to their end (s).
_RESUME_INTERVAL_SECONDS = 1.0

#: A turn as the item of a problem.
_TURN = "turn"

#: Pause after something was away (s), doubled up to the second figure.
_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 2.0


class Relay:
    """Carries work from SQL to Redis and reports from Redis to SQL."""

    def __init__(self, database: Database, redis_url: str, clock: Clock, settings: Settings) -> None:
        # XREAD blocks for up to _LONGEST_WAIT; the time-out has to leave room for it.
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
        self._schedule_evaluator = ScheduleEvaluator(database, clock, without_beat=not settings.needs_beat)
        self._maintenance = Maintenance(
            database, self._client, self._dispatcher, clock, settings, self._steps, self._problems
        )
        self._maintenance.add_task("stranded", _SWEEP_INTERVAL_SECONDS, self._dependency_resolver.resolve_stranded)
        self._maintenance.add_task("plans", _PRELOAD_INTERVAL_SECONDS, self._schedule_evaluator.preload_upcoming)
        self._maintenance.add_task("pauses", _RESUME_INTERVAL_SECONDS, self._schedule_evaluator.end_expired_pauses)
        schedules = schedule_sync.ScheduleSynchronizer(database, clock, settings, self._problems)
        self._maintenance.add_task("declared_schedules", schedule_sync.RETRY_INTERVAL_SECONDS, schedules.synchronize)
        self._maintenance.add_task("problems", _RENEWAL_INTERVAL_SECONDS, self._save_problems)
        self._trim_step = RelayStep("trim", self._trim_streams, _TRIM_INTERVAL_SECONDS)
        self._pre_dispatch_steps = [
            # First: what belongs to a cancelled batch is not dispatched any more.
            RelayStep("cancel_batches", self._dependency_resolver.cancel_batches),
            RelayStep("cancel", self._dispatcher.cancel_queued),
            RelayStep("stop", self._stop_request_sender.send_pending),
        ]
        self._dispatch_step = RelayStep("dispatch", self._dispatcher.dispatch)
        # Who looks for silent workers has to look often, or nobody is held to have been silent.
        self._max_wait = min(_MAX_WAIT_SECONDS, settings.heartbeat_interval)
        self._offsets: StreamOffsets | None = None
        self._renewed_at = self._dispatched_at = float("-inf")
        self._is_redis_checked = self._is_leader = False
        self._saved_problems: list[RelayProblem] = []

    def run(self, stop: threading.Event) -> None:
        """Turn until `stop` is set. Nothing that Redis or the database does or holds ends it.

        Raises `Misconfigured` for a Redis that would lose work.
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
            except Exception as error:  # noqa: BLE001  what one turn meets must not end the relay
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
        """Log what ended a turn; the next one begins after `pause` seconds."""
        if isinstance(error, redis.RedisError):
            logger.warning("redis_away", error=str(error), next_try_in=pause)
            self._maintenance.postpone_rescue()
            self._maintenance.check_foreign_keys_soon()
            self._is_redis_checked = False  # What comes back may be another server.
        elif isinstance(error, UNAVAILABLE):
            logger.warning("database_away", error=str(getattr(error, "orig", error)), next_try_in=pause)
        else:
            self._problems.report("turn_failed", _TURN, f"{type(error).__name__}: {error}")

    def run_turn(self) -> int:
        """Do one round; return how many reports and messages it moved.

        Raises `NotLeading`, or what Redis or the database raised, with nothing lost.
        """
        self._check_redis_once()
        offsets = self._offsets or self._acquire_leadership()
        self._maintenance.run_before_reading()
        if self._maintenance.consume_new_epoch():
            offsets = self._acquire_leadership()
        due = self._get_next_due()
        batch = self._reader.read(offsets, self._compute_wait(due))
        # A client waits for what was just submitted; none waits for the history to be written.
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
        """When jobs say more than one transaction should take: piece by piece, and not for long."""
        until = self._clock.monotonic() + _LOG_FLOOD_SECONDS
        while batch.logs and self._offsets:
            self._record_batch(self._offsets, batch)
            if not batch.has_more_logs or self._clock.monotonic() >= until:
                return
            batch = self._reader.read_logs(self._offsets)

    def _record_batch(self, offsets: StreamOffsets, batch: EventBatch) -> int:
        """Commit what was read. A report that the database cannot take must not stop the others."""
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
        """Commit a report that was refused, or in its place that its attempt has failed, if it was the end of one.

        Raises what keeps a transaction without any report from being committed: then no report is to blame.
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
        """What `_commit` answers, or what is wrong with the batch. Raises what is not the fault of any batch."""
        try:
            return self._commit(offsets, batch)
        except (NotLeader, redis.RedisError, *UNAVAILABLE):
            raise
        except Exception as error:  # noqa: BLE001  nothing that was reported may stop the relay; it is logged
            return error

    def _commit(self, offsets: StreamOffsets, batch: EventBatch) -> int:
        """Everything that was read, in one transaction with how far it was read; answers what may go out now."""
        now = self._clock.now()
        with self._database.write() as connection:
            moved = astuple(offsets), astuple(batch.offsets)
            if not relay_state.advance_offsets(connection, self._leadership.name, now, *moved, not batch.has_more_logs):
                raise NotLeader
            record_progress(connection, batch.events)
            told = record_events(connection, batch.events)
            record_logs(connection, batch.logs)
            fired = self._schedule_evaluator.evaluate(connection, batch.events, told.schedule_ends, now)
            expired = due_executions.expire_executions(connection, now, _DUE_BATCH_SIZE)
            ended = [*told.ended, *dependency_rows.find_ended(connection, expired)]
            freed = self._dependency_resolver.resolve_dependents(connection, ended, now)
            due = due_executions.release_due(connection, now, _DUE_BATCH_SIZE)
        self._dependency_resolver.mark_committed(freed)
        self._schedule_evaluator.mark_committed(fired, now)
        self._offsets = batch.offsets
        self._renewed_at = self._clock.monotonic()
        self._dispatcher.record_claims(told.claimed)
        self._dispatcher.record_declined_messages(told.declined)
        # Whoever ends or starts may have made room for somebody who waits for just that.
        return fired.count + freed.released_count + due + (len(batch.events) if self._dispatcher.is_limited else 0)

    def _dispatch_ready(self) -> int:
        """Cancel and dispatch; return how many messages went out."""
        self._dispatched_at = self._clock.monotonic()
        for step in self._pre_dispatch_steps:
            self._steps.run(step)
        return self._steps.run(self._dispatch_step)

    def _needs_commit(self, due: datetime | None) -> bool:
        """Whether there is something to write although nothing was read."""
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
        """Let `/readyz` know of the problems."""
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
                self._maintenance.update_workers()  # Those that stopped before us are not shown as live.
        try:
            with self._database.write() as connection:
                relay_state.release_leadership(connection, self._leadership.name)
        except (sqlalchemy.exc.SQLAlchemyError, DatabaseBusy) as error:
            logger.warning("relay_could_not_resign", error=str(error))


def _log_refusal(report: Event, error: Exception) -> None:
    """Log that a report could not be recorded. No data and no traceback: those hold results and what jobs printed."""
    told = {"report": report.id, "kind": report.kind.value, "execution": report.execution, "attempt": report.attempt}
    logger.error("report_refused", **told, error=describe_error(error))
