"""Cluster of processes for schedules: a relay, a worker and two beats, each beat with its own proxy to Redis.

A cluster without beats uses the internal scheduling provider of the relay.

Every occurrence fires once in spite of the faults of a test: `ScheduleCluster.expect_exactly_once` checks this.
"""

import contextlib
import datetime as dt
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
import sqlalchemy as sa

from jobworker.domain.executions.execution import FINAL_STATES
from jobworker.domain.schedules.schedule import ScheduleOwner, parse
from jobworker.domain.schedules.timetable import find_next_time
from jobworker.store.schedules import schedule_rows
from jobworker.store.tables import core
from jobworker.store.tables.schedules import occurrences
from jobworker.transport import keys
from tests.engine import Engine
from tests.integration.transport.proxy import RedisProxy
from tests.polling import wait_until
from tests.schedule_oracle import NO_DISCREPANCIES, Discrepancies, OccurrenceKey, compare_database, list_nominal_times
from tests.servers import RedisServer, ServerProcess

#: Lifetime of the leader's lock with `FAST_BEAT_APP` (s).
LEADER_LOCK_SECONDS = 2.0

FAST_BEAT_APP = "tests.integration.beat_app"
DEFAULT_BEAT_APP = "jobworker"

#: Request of a beat that reports due entries: it contains names of entries, and the reading request does not.
_REPORT_PATTERN = re.compile(rb"redbeat:[0-9a-zA-Z]")

_RULES: Sequence[dict[str, Any]] = [
    *[{"kind": "interval", "every": 1}] * 6,
    *[{"kind": "interval", "every": 2, "anchor": "2026-01-01T00:00:00.25+00:00"}] * 3,
    *[{"kind": "interval", "every": 1.5}] * 3,
    *[{"kind": "cron", "expression": "*/2 * * * * *"}] * 6,
    *[{"kind": "cron", "expression": "1-59/2 * * * * *"}] * 6,
]


@dataclass
class BeatProcess:
    """Beat process, and its proxy to Redis."""

    process: ServerProcess
    proxy: RedisProxy

    def hold_report(self) -> None:
        """Hold the next report, so that the beat stops within a tick."""
        self.proxy.hold_request(lambda sent: _REPORT_PATTERN.search(sent) is not None)

    def drop_answer(self) -> None:
        """Forward the next report, and close the connection before its answer."""
        self.proxy.drop_answer_to(lambda sent: _REPORT_PATTERN.search(sent) is not None)

    def block_requests(self) -> None:
        """Hold all further requests of the beat."""
        self.proxy.hold_request(lambda _: True)


class ScheduleCluster:
    """Processes of a test, and their expected effects."""

    def __init__(self, engine: Engine, server: RedisServer, provider: str) -> None:
        self.engine = engine
        self.has_beats = provider == "redbeat"
        self._provider = provider
        self.server = server
        self.client = server.create_client()
        self.specs: dict[str, dict[str, Any]] = {}
        self.beats: list[BeatProcess] = []
        self.relay = self.start_relay()

    def start_relay(self) -> ServerProcess:
        """Start the relay in place of the current one."""
        self.relay = self.engine.start_relay(JOBWORKER_SCHEDULING_PROVIDER=self._provider)
        return self.relay

    def add_schedules(self, rules: Sequence[dict[str, Any]] = _RULES) -> None:
        """Add schedules that must not skip any occurrence, however late."""
        with self.engine.database.write() as connection:
            for number, rule in enumerate(rules):
                misfire = {"policy": "catch_up", "grace": 3600, "max": 1000}
                spec = {"name": f"s{number}", "job": "noop", "rule": rule, "overlap": "allow", "misfire": misfire}
                schedule, now = parse(spec), self.engine.clock.now()
                first = find_next_time(schedule.build_timetable({}), now)
                row = schedule_rows.upsert(connection, schedule, ScheduleOwner.API, "tester", now, first)
                self.specs[row.id] = spec

    def start_beat(self, app: str = FAST_BEAT_APP) -> BeatProcess:
        """Start one more beat."""
        proxy = RedisProxy(self.server.url)
        beat = BeatProcess(self.engine.start_beat(app, JOBWORKER_REDIS_URL=proxy.url), proxy)
        self.beats.append(beat)
        return beat

    def replace_beats(self, app: str) -> None:
        """Replace all beats by two new ones."""
        for beat in [*self.beats]:
            self.kill_beat(beat)
        self.delete_leader_lock()
        for _ in range(2):
            self.start_beat(app)

    def wait_for_leader(self) -> BeatProcess:
        """Wait for a leading beat and return it."""
        answer = wait_until(self._find_leader, what=f"a beat to lead; logs in {self.engine.folder}")
        assert answer is not None
        return answer

    def get_other_beat(self, beat: BeatProcess) -> BeatProcess:
        """Return a beat other than `beat`."""
        return next(candidate for candidate in self.beats if candidate is not beat)

    def wait_until_leading(self, beat: BeatProcess, within: float = 60.0) -> None:
        """Wait until `beat` leads."""
        wait_until(
            lambda: self._find_leader() is beat, within, what=f"the other beat to lead; logs in {self.engine.folder}"
        )

    def wait_until_held(self, beat: BeatProcess) -> None:
        """Wait until a report of `beat` is held."""
        wait_until(lambda: beat.proxy.is_holding, what="a beat to be stopped inside a tick")

    def kill_beat(self, beat: BeatProcess) -> None:
        """Kill a beat with SIGKILL."""
        beat.process.send_signal(signal.SIGKILL)
        self.beats.remove(beat)

    def delete_leader_lock(self) -> None:
        """Delete the leader's lock, as a foreign client might."""
        self.client.delete("redbeat::lock")

    def wait_for(self, seconds: float) -> None:
        """Wait until occurrences of this many seconds have passed."""
        then = self.engine.clock.now() + dt.timedelta(seconds=seconds)
        wait_until(lambda: self.engine.clock.now() >= then, what="time to pass")

    def wait_until_all_fire(self) -> None:
        """Wait until every schedule has fired an occurrence that became due after this call."""
        now, table = self.engine.clock.now(), occurrences

        def all_fired() -> bool:
            statement = sa.select(table.c.schedule_id).distinct().where(table.c.scheduled_for >= now)
            with self.engine.database.read() as connection:
                return set(connection.scalars(statement)) == set(self.specs)

        wait_until(all_fired, 90.0, every=0.1, what=f"every schedule to go on; logs in {self.engine.folder}")

    @contextlib.contextmanager
    def expect_exactly_once(self, check_starts: bool = True, max_delay: float | None = None) -> Iterator[None]:
        """Check that each occurrence of the block fires once, at most `max_delay` s late, and its execution begins.

        If Redis loses data, an unrecorded attempt may have begun, and begin again: then `check_starts` is false.
        """
        begin = self.engine.clock.now()
        yield
        end = self.engine.clock.now()
        expected: dict[OccurrenceKey, str] = {
            (schedule, at): "fired"
            for schedule, spec in self.specs.items()
            for at in list_nominal_times(spec, begin, end)
        }

        def findings() -> Discrepancies:
            starts = self.engine.count_starts() if check_starts else None
            late = dt.timedelta(seconds=max_delay) if max_delay else None
            return compare_database(self.engine.database, expected, begin, end, starts, late)

        with contextlib.suppress(AssertionError):  # Missing occurrences fail the last assertion.
            wait_until(lambda: not findings().missing, 60.0, every=0.2)
        wait_until(lambda: self._has_all_ended(begin, end), 90.0, every=0.2, what="every execution to end")
        assert len(expected) > len(self.specs)
        assert findings() == NO_DISCREPANCIES

    def close(self) -> None:
        """Release and close all proxies."""
        for beat in self.beats:
            beat.proxy.release()
            beat.proxy.close()
        self.client.close()

    def _find_leader(self) -> BeatProcess | None:
        with contextlib.suppress(redis.RedisError):
            name = str(self.client.hget(keys.BEAT, "leader") or "")
            return next((beat for beat in self.beats if name.endswith(f":{beat.process.pid}")), None)
        return None

    def _has_all_ended(self, begin: dt.datetime, end: dt.datetime) -> bool:
        table = core.executions
        open_ones = sa.select(sa.func.count()).where(
            table.c.scheduled_for >= begin, table.c.scheduled_for < end, table.c.state.not_in(FINAL_STATES)
        )
        with self.engine.database.read() as connection:
            return connection.execute(open_ones).scalar_one() == 0
