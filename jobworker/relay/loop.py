"""The relay: one loop. A turn is `read`, then `cancel → gate → dispatch` of what is ready, then
`record → fire → release`, settled in one transaction.

A turn writes one transaction with everything it read and how far it read; whatever fails before the
commit is read again. Of several relays one leads; the others stand by and take over within seconds.
"""

import contextlib
import os
import socket
import threading
from dataclasses import astuple
from datetime import datetime, timedelta

import redis
import sqlalchemy.exc
import structlog

from jobworker.clock import Clock
from jobworker.relay import declared
from jobworker.relay.dispatch import Dispatcher
from jobworker.relay.fire import Schedules
from jobworker.relay.log_lines import record_logs
from jobworker.relay.progress import record_progress
from jobworker.relay.read import Batch, Offsets, Reader
from jobworker.relay.record import record
from jobworker.relay.release import Releases
from jobworker.relay.stop import Stopper
from jobworker.relay.watch import Watch
from jobworker.settings import Settings
from jobworker.store import dependencies, dispatch, relay_state
from jobworker.store.database import Database
from jobworker.transport.claims import Claims
from jobworker.transport.client import check, connect
from jobworker.transport.orders import Orders
from jobworker.transport.publisher import Publisher

logger = structlog.get_logger(__name__)

#: Longest sleep between two turns (s): what a lost wake-up costs.
_LONGEST_WAIT = 1.0

#: Turns follow each other at this distance (s), so that one job after another does not keep a core busy.
_PACE = 0.005

#: A turn that moved so many reports and messages is followed at this distance (s), for larger batches.
_BUSY, _BUSY_PACE = 20, 0.1

#: How long a turn goes on with nothing but log lines (s).
_FLOOD = 0.05

#: How often the feed is filled while nothing new comes in (s).
_SEND_EVERY = 0.1

#: A leader that was not heard of for so long (s) is replaced.
_LEADERSHIP = 3.0

#: How often the leader says that it is there (s).
_RENEWAL = 1.0

#: How often the streams are trimmed (s).
_TRIM_EVERY = 1.0

#: Executions that become due in one turn.
_RELEASE_LIMIT = 1000

#: How often is looked for what should have been let go on (s).
_SWEEP_EVERY = 2.0

#: How often schedules that are due soon are read (s).
_PREPARE_EVERY = 0.5

#: How often is looked for pauses of schedules that have come to their end (s).
_RESUME_EVERY = 1.0

#: Pause after something was away (s), doubled up to the second figure.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0


class NotLeading(Exception):
    """Another relay leads, or has read on meanwhile."""


class Relay:
    """Carries work from SQL to Redis and reports from Redis to SQL."""

    def __init__(self, database: Database, redis_url: str, clock: Clock, settings: Settings) -> None:
        # XREAD blocks for up to _LONGEST_WAIT; the time-out has to leave room for it.
        self._client = connect(redis_url, timeout=_LONGEST_WAIT + 2.0)
        self._database = database
        self._clock = clock
        self._reader = Reader(self._client)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._dispatcher = Dispatcher(
            database,
            Publisher(self._client),
            Claims(self._client),
            clock,
            settings.feed,
            self._name,
            timedelta(seconds=settings.ageing),
        )
        self._stopper = Stopper(database, Orders(self._client), clock)
        self._releases = Releases(database, clock)
        self._schedules = Schedules(database, clock, looks=not settings.needs_beat)
        self._watch = Watch(database, self._client, self._dispatcher, clock, settings)
        self._watch.add("stranded", _SWEEP_EVERY, self._releases.sweep)
        self._watch.add("plans", _PREPARE_EVERY, self._schedules.prepare)
        self._watch.add("pauses", _RESUME_EVERY, self._schedules.end_pauses)
        schedules = declared.DeclaredSchedules(database, clock, settings)
        self._watch.add("declared_schedules", declared.EVERY, schedules.synchronise)
        # Who looks for silent workers has to look often, or nobody is held to have been silent.
        self._longest_wait = min(_LONGEST_WAIT, settings.heartbeat_interval)
        self._offsets: Offsets | None = None
        self._renewed_at = self._trimmed_at = self._sent_at = float("-inf")
        self._checked = self._leads = False

    def run(self, stop: threading.Event) -> None:
        """Turn until `stop` is set. Nothing that Redis or the database does ends it."""
        pause = _FIRST_PAUSE
        while not stop.is_set():
            began = self._clock.monotonic()
            try:
                done = self.turn()
            except NotLeading:
                self._offsets, self._leads = None, False
                self._clock.wait(stop, _RENEWAL)
            except redis.RedisError as error:
                logger.warning("redis_away", error=str(error), next_try_in=pause)
                self._watch.redis_was_away()
                self._checked = False  # What comes back may be another server.
                self._clock.wait(stop, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as error:
                logger.warning("database_away", error=str(error.orig), next_try_in=pause)
                self._clock.wait(stop, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                pace = _BUSY_PACE if done >= _BUSY else _PACE
                self._clock.wait(stop, max(0.0, pace - (self._clock.monotonic() - began)))
        self._resign()

    def turn(self) -> int:
        """One round; answers how many reports and messages it moved.

        Raises `NotLeading`, or what Redis or the database raised, with nothing lost.
        """
        self._check_redis_once()
        offsets = self._offsets or self._lead()
        self._watch.run_due()
        if self._watch.started_over():
            offsets = self._lead()
        due = self._next_due()
        batch = self._reader.read(offsets, self._wait(due))
        # Somebody waits for what was just submitted; nobody waits for the history to be written.
        sent = self._send(urgent=batch.woken)
        first, lines = batch.split(offsets)
        released = self._settle(offsets, first) if first or self._is_time(due) else 0
        sent += self._send(urgent=True) if released else 0
        self._write_flood(lines)
        self._trim()
        return len(batch.events) + sent

    def _write_flood(self, batch: Batch) -> None:
        """When jobs say more than one transaction should take: piece by piece, and not for long."""
        until = self._clock.monotonic() + _FLOOD
        while batch.logs and self._offsets:
            self._settle(self._offsets, batch)
            if not batch.flooded or self._clock.monotonic() >= until:
                return
            batch = self._reader.read_logs(self._offsets)

    def _settle(self, offsets: Offsets, batch: Batch) -> int:
        """Commit what was read. A report that the database cannot take is skipped; it must not stop the others."""
        try:
            return self._commit(offsets, batch)
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError):
            raise  # The database is away.
        except (sqlalchemy.exc.StatementError, ArithmeticError, TypeError, ValueError) as error:
            reports = [*batch.events, *batch.logs]
            if not reports:
                raise
            if len(reports) == 1:
                logger.exception("report_refused", report=reports[0], error=str(error))
                return self._commit(offsets, Batch(batch.offsets))
        return sum(self._settle(self._offsets or offsets, part) for part in batch.one_by_one(offsets))

    def _commit(self, offsets: Offsets, batch: Batch) -> int:
        """Everything that was read, in one transaction with how far it was read; answers what may go out now."""
        now = self._clock.now()
        times = now, now + timedelta(seconds=_LEADERSHIP)
        with self._database.write() as connection:
            moved = astuple(offsets), astuple(batch.offsets)
            if not relay_state.advance(connection, self._name, times, *moved, not batch.flooded):
                raise NotLeading
            record_progress(connection, batch.events)
            told = record(connection, batch.events)
            record_logs(connection, batch.logs)
            fired = self._schedules.fire(connection, batch.events, told.of_schedules, now)
            expired = dispatch.expire(connection, now, _RELEASE_LIMIT)
            ended = [*told.ended, *dependencies.ended(connection, expired)]
            freed = self._releases.release(connection, ended, now)
            due = dispatch.release_due(connection, now, _RELEASE_LIMIT)
        self._releases.done(freed)
        self._schedules.done(fired, now)
        self._offsets = batch.offsets
        self._renewed_at = self._clock.monotonic()
        self._dispatcher.note_claims(told.claimed)
        self._dispatcher.note_declined(told.declined)
        # Whoever ends or starts may have made room for somebody who waits for just that.
        return fired.count + freed.count + due + (len(batch.events) if self._dispatcher.held_up else 0)

    def _send(self, urgent: bool) -> int:
        """Cancel and dispatch, when there is something new or it is time to fill the feed again."""
        if not urgent and self._clock.monotonic() - self._sent_at < _SEND_EVERY:
            return 0
        self._sent_at = self._clock.monotonic()
        # First: what belongs to a cancelled batch is not dispatched any more.
        self._releases.cancel_batches()
        self._dispatcher.cancel()
        self._stopper.run()
        return self._dispatcher.dispatch()

    def _is_time(self, due: datetime | None) -> bool:
        """Whether there is something to write although nothing was read."""
        renew = self._clock.monotonic() - self._renewed_at >= _RENEWAL
        return renew or self._has_pending or (due is not None and due <= self._clock.now())

    def _lead(self) -> Offsets:
        with self._database.write() as connection:
            now = self._clock.now()
            if not relay_state.lead(connection, self._name, now, now + timedelta(seconds=_LEADERSHIP)):
                raise NotLeading
            self._schedules.start(connection, now)
            state = relay_state.get(connection)
        self._schedules.started()
        if not self._leads:
            logger.info("relay_leads", relay=self._name)
        self._leads = True
        self._renewed_at = self._clock.monotonic()
        self._offsets = Offsets(state.events_offset, state.logs_offset)
        return self._offsets

    def _next_due(self) -> datetime | None:
        with self._database.read() as connection:
            moments = [dispatch.next_due(connection), self._schedules.next_due(connection)]
        return min((moment for moment in moments if moment is not None), default=None)

    def _wait(self, due: datetime | None) -> float:
        if self._has_pending:
            return 0.0
        longest = _SEND_EVERY if self._dispatcher.undecided else self._longest_wait
        moments = [moment for moment in (due, self._dispatcher.next_permit) if moment is not None]
        if not moments:
            return longest
        return min(longest, max(0.0, (min(moments) - self._clock.now()).total_seconds()))

    @property
    def _has_pending(self) -> bool:
        return self._releases.pending or self._schedules.pending

    def _trim(self) -> None:
        if self._offsets and self._clock.monotonic() - self._trimmed_at >= _TRIM_EVERY:
            self._reader.trim(self._offsets)
            self._trimmed_at = self._clock.monotonic()

    def _check_redis_once(self) -> None:
        if not self._checked:
            check(self._client)
            self._checked = True

    def _resign(self) -> None:
        with contextlib.suppress(redis.RedisError, sqlalchemy.exc.SQLAlchemyError):
            if self._leads:
                self._watch.look_for_workers()  # Those that stopped before us are not shown as live.
        try:
            with self._database.write() as connection:
                relay_state.resign(connection, self._name)
        except sqlalchemy.exc.SQLAlchemyError as error:
            logger.warning("relay_could_not_resign", error=str(error))
