"""Maintenance tasks of the relay. Each has a name, an interval, and one bounded round."""

import datetime as dt
import functools
import logging
import uuid
from collections.abc import Callable, Sequence

import redis
import structlog

from jobworker.clock import Clock
from jobworker.relay.beat_sync import BeatSynchronizer
from jobworker.relay.dispatch import Dispatcher
from jobworker.relay.problems import RelayProblems
from jobworker.relay.steps import RelayStep, StepRunner
from jobworker.services import queues
from jobworker.services.jobs import task_catalog
from jobworker.services.jobs.task_catalog import WorkerOffer
from jobworker.services.schedules import time_zone_updates
from jobworker.settings import Settings
from jobworker.store import relay_state, workers
from jobworker.store.database.database import Database
from jobworker.store.executions import dispatch, limit_usage, unique_keys
from jobworker.store.executions.dispatch import RunningAttempt
from jobworker.store.workers import WorkerRow
from jobworker.transport import keys
from jobworker.transport.beat import beat_keys
from jobworker.transport.beat.projection import Projection
from jobworker.transport.claims import Claims
from jobworker.transport.direct_call_queues import DirectCallQueues
from jobworker.transport.foreign_redis_keys import rename_foreign_keys
from jobworker.transport.worker_registry import UnreadableKey, WorkerAnnouncement, WorkerRegistry

logger = structlog.get_logger(__name__)

#: Size of SQLite's write-ahead log that triggers a checkpoint (bytes).
_MAX_WAL_BYTES = 4 * 1024 * 1024

#: Interval between updates of unchanged workers in SQL (s).
_SEEN_INTERVAL_SECONDS = 5.0

#: Interval between republications of declined messages (s). All workers with the task may be busy, and then the same
#: idle worker declines the message again.
_DECLINED_INTERVAL_SECONDS = 1.0


#: Interval between comparisons of this relay's time zone data with those of the other processes (s).
_ZONE_DATA_INTERVAL_SECONDS = 30.0

#: Maximum length of a worker's time zone data version in SQL (characters).
_MAX_ZONE_DATA_LENGTH = 64

#: Interval between removals of beat's entries while no beat is in use (s).
_REMOVE_ENTRIES_INTERVAL_SECONDS = 30.0


#: Interval between checks for direct calls in queues without a worker (s).
_UNSERVED_INTERVAL_SECONDS = 10.0

#: Interval between checks for keys of JobWorker with a value of another type (s).
_KEY_TYPES_INTERVAL_SECONDS = 5.0

#: Maximum number of catalogs remembered as registered; each version of the code has one.
_MAX_CATALOGS = 1000


class Maintenance:
    """The relay's maintenance tasks."""

    def __init__(
        self,
        database: Database,
        client: redis.Redis,
        dispatcher: Dispatcher,
        clock: Clock,
        settings: Settings,
        steps: StepRunner,
        problems: RelayProblems,
    ) -> None:
        self._database = database
        self._client = client
        self._dispatcher = dispatcher
        self._clock = clock
        self._settings = settings
        self._step_runner = steps
        self._problems = problems
        self._registry = WorkerRegistry(client, settings.worker_lease)
        self._claims = Claims(client)
        self._direct_call_queues = DirectCallQueues(client, clock)
        self._unserved_queues: set[str] = set()
        self._broken_modules: set[str] = set()
        self._beat_synchronizer = BeatSynchronizer(database, Projection(client), clock)
        self._registered_catalogs: set[str] = set()
        self._connected_since: float | None = None
        self._is_epoch_new = False
        self._workers_written_at = float("-inf")
        self._suspects: set[RunningAttempt] = set()
        self._zone_data_difference: str | None = None
        followed = settings.needs_beat
        self._sync_beat = self._beat_synchronizer.run if followed else self._beat_synchronizer.remove_all
        #: Runs before anything is read or trimmed, because stream offsets are invalid after Redis has lost its data.
        self._epoch_task = RelayStep("epoch", self.check_epoch, 1.0)
        self._foreign_keys_task = RelayStep("foreign_keys", self.rename_foreign_keys, _KEY_TYPES_INTERVAL_SECONDS)
        self._zone_data_task = RelayStep("time_zone_data", self.compare_zone_data, _ZONE_DATA_INTERVAL_SECONDS)
        self._tasks = [
            RelayStep("workers", self.update_workers, min(1.0, settings.heartbeat_interval)),
            RelayStep("lost_attempts", self.rescue_lost_attempts, settings.worker_lease),
            RelayStep("declined_messages", self._dispatcher.republish_declined_messages, _DECLINED_INTERVAL_SECONDS),
            RelayStep("lost_messages", self.republish_lost_messages, settings.lost_message_after / 2),
            RelayStep("ageing", self._dispatcher.withdraw_aged_messages, settings.ageing / 2),
            RelayStep("limits", self.delete_unused_limits, 60.0),
            RelayStep("called_queues", self.report_unserved_calls, _UNSERVED_INTERVAL_SECONDS),
            RelayStep(
                "queues", functools.partial(queues.remove_unused, database, clock), queues.REMOVE_INTERVAL_SECONDS
            ),
            RelayStep("schedules", self.sync_beat_schedule, 0.5 if followed else _REMOVE_ENTRIES_INTERVAL_SECONDS),
            RelayStep("beat", self.record_beat_tick, 5.0),
            RelayStep("checkpoint", self.checkpoint_wal, 1.0),
            self._zone_data_task,
        ]

    def add_task(self, name: str, interval: float, run: Callable[[], int | None]) -> None:
        """Add a maintenance task that runs every `interval` seconds."""
        self._tasks.append(RelayStep(name, run, interval))

    def run_before_reading(self) -> None:
        """Detect a Redis that lost its data, and keys that make its streams unreadable, before the streams are read."""
        self._step_runner.run(self._epoch_task)
        self._step_runner.run(self._foreign_keys_task)

    def run_due_tasks(self) -> None:
        """Run the tasks that are due. Raises `redis.RedisError` when Redis does not respond."""
        for task in self._tasks:
            self._step_runner.run(task)

    def check_foreign_keys_soon(self) -> None:
        """Make the check for foreign keys due now, because a foreign key may be why Redis refused a command."""
        self._foreign_keys_task.next_at = float("-inf")

    def run_standby_tasks(self) -> None:
        """Run the tasks of a standby relay. Raises `redis.RedisError` when Redis does not respond."""
        self._step_runner.run(self._zone_data_task)

    def postpone_rescue(self) -> None:
        """Postpone the rescue of attempts by a full lease: heartbeats could not arrive either."""
        self._connected_since = None
        self._suspects = set()

    def consume_new_epoch(self) -> bool:
        """Return, once per epoch, whether reading must restart because Redis lost its data."""
        answer, self._is_epoch_new = self._is_epoch_new, False
        return answer

    def check_epoch(self) -> None:
        """Detect that Redis lost its data, and start a new epoch from the contents of SQL."""
        with self._database.read() as connection:
            state = relay_state.get(connection)
        if state.epoch is None or self._client.get(keys.EPOCH) != state.epoch:
            self._start_epoch(first_time=state.epoch is None)
        elif state.republish_at and state.republish_at <= self._clock.now():
            self._republish(state.republish_at - self._get_worker_grace_period())

    def update_workers(self) -> None:
        """Update the live workers and their tasks, and reap silent workers."""
        announced = self._registry.list_announcements(self._report_unreadable)
        self._register_tasks(announced)
        self._report_broken_modules(announced)
        present = [_to_row(announcement, self._clock.now()) for announcement in announced]
        changed = {row.id for row in present} != {row.id for row in self._dispatcher.workers}
        if changed or self._clock.monotonic() - self._workers_written_at >= _SEEN_INTERVAL_SECONDS:
            with self._database.write() as connection:
                workers.update_live(connection, present, self._clock.now())
                if changed:
                    task_catalog.mark_removed_tasks(
                        connection, [_to_offer(announcement) for announcement in announced], self._clock.now()
                    )
            self._workers_written_at = self._clock.monotonic()
        self._dispatcher.workers = present
        if self._connected_since is None:
            self._connected_since = self._clock.monotonic()
        self._registry.reap_silent_workers()

    def _report_broken_modules(self, announced: Sequence[WorkerAnnouncement]) -> None:
        broken = set()
        for announcement in announced:
            for module, _, why in (text.partition(": ") for text in announcement.broken):
                subject = f"module {module} on {announcement.host}"
                broken.add(subject)
                # The worker has logged this problem as an error.
                self._problems.report("task_module_broken", subject, why, level=logging.INFO)
        for subject in self._broken_modules - broken:
            self._problems.clear(subject)
        self._broken_modules = broken

    def rescue_lost_attempts(self) -> None:
        """Find attempts that SQL records as running and no worker reports as running, and end them as lost.

        Their end was reported to a Redis that lost it, or their worker was lost with the data. An attempt is lost only
        if two checks in a row, a lease apart, find it: a report may be on its way, or a worker may reconnect.
        """
        with self._database.read() as connection:
            recorded = dispatch.list_running(connection)
        long_ago = self._clock.now() - dt.timedelta(seconds=self._settings.worker_lease)
        if self._connected_since is None or not recorded:
            self._suspects = set()
            return
        running = self._registry.get_running_attempts(self._report_unreadable)
        suspects = {row for row in recorded if (row.id, row.attempt) not in running and row.started_at < long_ago}
        for row in suspects & self._suspects:
            logger.warning("attempt_lost", execution=row.id, attempt=row.attempt, worker=row.worker)
            why = {"worker": row.worker, "reason": "no worker knows of it; Redis lost its report"}
            self._claims.abandon(row.id, row.attempt, why)
        self._suspects = suspects - self._suspects

    def rename_foreign_keys(self) -> None:
        """Rename JobWorker's keys with a value of another type, because every command on them would fail forever."""
        for key, key_type, name in rename_foreign_keys(self._client):
            subject = f"redis key {key}"
            self._problems.report("redis_key_set_aside", subject, f"it held a {key_type} and was renamed to {name}")

    def republish_lost_messages(self) -> None:
        """Republish messages that were lost between Redis and the workers."""
        patience = dt.timedelta(seconds=self._settings.lost_message_after)
        self._dispatcher.republish_lost_messages(self._clock.now() - patience)

    def report_unserved_calls(self) -> None:
        """Report direct calls that wait in queues without a worker."""
        served = {queue for worker in self._dispatcher.workers for queue in worker.queues}
        waiting = self._direct_call_queues.count_waiting(served)
        for queue, count in waiting.items():
            why = (
                f"waiting messages: {count}; no worker takes from this queue: start one with -Q {queue}, "
                f"or take them out with `celery -A jobworker purge -Q {queue}`"
            )
            self._problems.report("queue_without_worker", f"queue {queue}", why)
        for queue in self._unserved_queues - waiting.keys():
            self._problems.clear(f"queue {queue}")
        self._unserved_queues = set(waiting)

    def delete_unused_limits(self) -> None:
        """Delete full rate buckets and expired unique keys."""
        with self._database.write() as connection:
            limit_usage.delete_full_buckets(connection, self._clock.now())
            unique_keys.delete_expired(connection, self._clock.now())

    def sync_beat_schedule(self) -> None:
        """Synchronize beat's schedule with SQL. A refusal by Redis affects no other task."""
        try:
            self._sync_beat()
        except redis.ResponseError as error:
            self._discard_foreign_keys(error)

    def _discard_foreign_keys(self, error: redis.ResponseError) -> None:
        discarded = beat_keys.discard_foreign_keys(self._client, beat_keys.KEY_TYPES)
        for key in discarded:
            logger.error("beat_key_of_another_type", key=key)
        if discarded:
            self._beat_synchronizer.reset()
        else:
            logger.error("schedules_not_written", error=str(error))

    def record_beat_tick(self) -> None:
        """Record beat's last tick in SQL, for the readiness check."""
        at = beat_keys.get_last_tick(self._client)
        if at is not None:
            with self._database.write() as connection:
                relay_state.update_beat_tick(connection, at)

    def checkpoint_wal(self) -> None:
        """Keep SQLite's write-ahead log small."""
        self._database.checkpoint(above=_MAX_WAL_BYTES)

    def _report_unreadable(self, unreadable: UnreadableKey) -> None:
        self._problems.report("redis_key_unreadable", f"redis key {unreadable.key}", unreadable.reason)

    def compare_zone_data(self) -> None:
        """Log a warning, once, when other processes have other time zone data."""
        with self._database.read() as connection:
            difference = time_zone_updates.describe_disagreement(connection, self._client)
        if difference and difference != self._zone_data_difference:
            logger.warning("time_zone_data_differ", why=difference)
        self._zone_data_difference = difference

    def _register_tasks(self, announced: Sequence[WorkerAnnouncement]) -> None:
        for announcement in announced:
            if announcement.catalogue not in self._registered_catalogs:
                offered = self._registry.get_catalog(announcement.catalogue, self._report_unreadable)
                task_catalog.register_tasks(
                    self._database, self._clock, offered, announcement.code_version, announcement.package or None
                )
                if len(self._registered_catalogs) >= _MAX_CATALOGS:
                    self._registered_catalogs.clear()
                self._registered_catalogs.add(announcement.catalogue)

    def _start_epoch(self, first_time: bool) -> None:
        """Start a new epoch; messages are republished after a pause.

        During the pause workers report their running attempts, which keep their claims; SQL may not know of these
        attempts yet.
        """
        epoch, now = str(uuid.uuid4()), self._clock.now()
        with self._database.write() as connection:
            relay_state.start_epoch(connection, epoch, None if first_time else now + self._get_worker_grace_period())
        self._client.set(keys.EPOCH, epoch)
        self._is_epoch_new = True
        self._beat_synchronizer.reset()
        if not first_time:
            logger.warning("redis_lost_its_data", epoch=epoch)
            self.postpone_rescue()

    def _republish(self, published_before: dt.datetime) -> None:
        with self._database.write() as connection:
            count = dispatch.mark_all_unpublished(connection, published_before)
            relay_state.clear_republish_at(connection)
        logger.info("published_again", count=count)

    def _get_worker_grace_period(self) -> dt.timedelta:
        return dt.timedelta(seconds=self._settings.heartbeat_interval * 2)


def _to_offer(announcement: WorkerAnnouncement) -> WorkerOffer:
    return WorkerOffer(
        package=announcement.package,
        complete=bool(announcement.package) and not announcement.broken,
        queues=announcement.queues,
        tasks=announcement.tasks,
        started_at=announcement.started_at,
    )


def _to_row(announcement: WorkerAnnouncement, now: dt.datetime) -> WorkerRow:
    return WorkerRow(
        id=announcement.worker,
        host=announcement.host,
        pid=announcement.pid,
        pool=announcement.pool,
        concurrency=announcement.concurrency,
        queues=announcement.queues,
        tasks=announcement.tasks,
        code_version=announcement.code_version,
        started_at=announcement.started_at,
        seen_at=now,
        zone_data=str(announcement.zone_data)[:_MAX_ZONE_DATA_LENGTH] or None,
    )
