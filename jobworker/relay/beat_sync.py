"""Synchronization of beat's schedule in Redis with SQL: recent changes in each round, all schedules in batches.

Each round is bounded, so that the relay's other work never waits for a hundred thousand schedules.
"""

import datetime as dt
from collections.abc import Sequence

import structlog

from jobworker.clock import Clock
from jobworker.store import relay_state
from jobworker.store.calendars import calendar_rows
from jobworker.store.database.database import Database
from jobworker.store.schedules import beat_entries
from jobworker.store.schedules.beat_entries import BeatScheduleRow
from jobworker.transport.beat import entry_format
from jobworker.transport.beat.projection import ExpectedEntry, ProjectedSchedule, Projection

logger = structlog.get_logger(__name__)

#: Age of the changes that each round reads again (s), because their transactions may have committed late.
_RECENT_SECONDS = 10.0

#: Maximum number of recent changes per round. If there are more, all schedules are compared.
_MAX_RECENT = 1000

#: Schedules that one round of the full comparison reads; with a round per second, 100,000 take 20 seconds.
_COMPARE_BATCH_SIZE = 5000

#: Interval between full comparisons (s): each entry is compared once a minute.
_COMPARE_INTERVAL_SECONDS = 50.0

#: Maximum number of entries written in one step.
_WRITE_BATCH_SIZE = 500

#: Maximum number of ids in a log event.
_MAX_LOGGED_IDS = 5


class BeatSynchronizer:
    """Keeps the entries in Redis equal to SQL. Not safe for concurrent callers."""

    def __init__(self, database: Database, projection: Projection, clock: Clock) -> None:
        self._database = database
        self._projection = projection
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Start a full comparison with the next round."""
        self._compare_started_at = float("-inf")
        self._schedule_cursor: str | None = None
        self._orphan_cursor: int | None = None
        self._expected_count = 0

    def run(self) -> None:
        """Run one round. Raises `redis.RedisError`."""
        self._reconcile_recent()
        if self._orphan_cursor is not None:
            self._remove_orphans(self._orphan_cursor)
        elif (
            self._schedule_cursor is not None
            or self._clock.monotonic() - self._compare_started_at >= _COMPARE_INTERVAL_SECONDS
        ):
            self._reconcile_next_batch(self._schedule_cursor)

    def remove_all(self) -> None:
        """Remove all entries, because no beat is to follow them. Raises `redis.RedisError`."""
        cursor = None
        while cursor != 0:
            cursor, ids = self._projection.scan(cursor or 0, _COMPARE_BATCH_SIZE)
            self._projection.remove(ids)

    def _reconcile_recent(self) -> None:
        since = self._clock.now() - dt.timedelta(seconds=_RECENT_SECONDS)
        with self._database.read() as connection:
            plans = beat_entries.list_changed(connection, since, _MAX_RECENT)
        self._reconcile(plans)
        if len(plans) == _MAX_RECENT:
            self._compare_started_at = float("-inf")

    def _reconcile_next_batch(self, after_id: str | None) -> None:
        if after_id is None:
            after_id, self._compare_started_at, self._expected_count = "", self._clock.monotonic(), 0
        with self._database.read() as connection:
            plans = beat_entries.list_after(connection, after_id, _COMPARE_BATCH_SIZE)
        self._reconcile(plans)
        self._expected_count += sum(plan.next_at is not None for plan in plans)
        self._schedule_cursor = plans[-1].id if len(plans) == _COMPARE_BATCH_SIZE else None
        # All expected entries are in Redis; further entries belong to deleted schedules.
        if self._schedule_cursor is None and self._projection.count() != self._expected_count:
            self._orphan_cursor = 0

    def _remove_orphans(self, cursor: int) -> None:
        cursor, ids = self._projection.scan(cursor, _COMPARE_BATCH_SIZE)
        with self._database.read() as connection:
            known_ids = {plan.id for plan in beat_entries.get_by_ids(connection, ids) if plan.next_at is not None}
        strays = [schedule_id for schedule_id in ids if schedule_id not in known_ids]
        if strays:
            logger.info("beat_entries_removed", count=len(strays), schedules=strays[:_MAX_LOGGED_IDS])
            self._projection.remove(strays)
        self._orphan_cursor = cursor or None

    def _reconcile(self, plans: Sequence[BeatScheduleRow]) -> None:
        """Compare the entries of these schedules with SQL and rewrite those that differ."""
        if not plans:
            return
        expected = [ExpectedEntry(plan.id, plan.version, plan.next_at) for plan in plans]
        with self._database.read() as connection:
            read_to = relay_state.get(connection).events_offset
        wrong, unheard, put_off = self._projection.compare(expected, self._clock.now(), read_to)
        if unheard:
            logger.warning("due_event_lost", count=len(unheard), schedules=unheard[:_MAX_LOGGED_IDS])
        if put_off:
            logger.warning("beat_entries_put_back", count=len(put_off), schedules=put_off[:_MAX_LOGGED_IDS])
        for start in range(0, len(wrong), _WRITE_BATCH_SIZE):
            self._rewrite_entries(wrong[start : start + _WRITE_BATCH_SIZE])

    def _rewrite_entries(self, ids: Sequence[str]) -> None:
        with self._database.read() as connection:
            rows = beat_entries.get_with_specs(connection, ids)
            named = {name for _, spec in rows for name in entry_format.list_calendars(spec)}
            specs = {name: row.spec for name, row in calendar_rows.get_many(connection, named).items()} if named else {}
        projected = [
            ProjectedSchedule(plan.id, plan.version, plan.next_at, spec, specs)
            for plan, spec in rows
            if plan.next_at is not None
        ]
        self._projection.write(projected)
        self._projection.remove(sorted(set(ids) - {schedule.id for schedule in projected}))
