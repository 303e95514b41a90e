"""Whether the house stands: each check by its name, and the figures that operators watch."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

import redis
import sqlalchemy as sa

from jobworker.clock import Clock
from jobworker.domain.errors import Misconfigured
from jobworker.domain.gates import RELAY_SILENT_AFTER
from jobworker.services import overdue
from jobworker.store import executions, migrate, relay_state, schedule_lists, unreadable, workers
from jobworker.store.database import UNAVAILABLE, Database
from jobworker.telemetry.metrics import Census
from jobworker.transport import beat_keys, client

#: Redis has to answer within so many seconds: a health check must not hang itself.
_REDIS_TIMEOUT = 0.5

#: So many rows that cannot be read are named.
_NAMED = 10

#: Beat ticks every few seconds; another beat needs a while to take over from a dead one (s).
_BEAT_SILENT_AFTER = 45.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be right, and what was found."""

    name: str
    ok: bool
    detail: str


class Health:
    """Asks the database, Redis and the traces that the other processes leave in SQL."""

    def __init__(self, database: Database, redis_url: str, clock: Clock, needs_beat: bool = True) -> None:
        self._database = database
        self._redis = client.connect(redis_url, timeout=_REDIS_TIMEOUT)
        self._clock = clock
        self._needs_beat = needs_beat

    def checks(self) -> list[Check]:
        """Everything that is needed for accepted work to be run on time.

        Without the database nothing is accepted. Without the rest work is accepted and runs later.
        """
        named: list[tuple[str, Callable[[], str]]] = [
            ("database", self._check_database),
            ("migrations", self._check_migrations),
            ("redis", self._check_redis),
            ("relay", self._check_relay),
            ("beat", self._check_beat),
            ("workers", self._check_workers),
            ("schedules", self._check_schedules),
            ("rows", self._check_rows),
        ]
        return [_run(name, check) for name, check in named]

    def census(self) -> Census | None:
        """The figures for `/metrics`; None: the database does not answer."""
        now = self._clock.now()
        try:
            with self._database.read() as connection:
                state = relay_state.get(connection)
                late = overdue.look(connection, now)
                return Census(
                    unfinished={state.value: count for state, count in executions.count_unfinished(connection).items()},
                    backlog=executions.ready_backlog(connection),
                    live_workers=len(workers.live(connection)),
                    relay_lag=_age(state.turned_at, now),
                    beat_age=_age(state.beat_tick_at, now),
                    schedules={each.value: number for each, number in schedule_lists.count(connection, now).items()},
                    overdue=late.count,
                    lateness=late.lateness(now),
                )
        except sa.exc.SQLAlchemyError:
            return None

    def _check_database(self) -> str:
        with self._database.read() as connection:
            connection.execute(sa.text("SELECT 1"))
        return f"{self._database.url.get_backend_name()} answers"

    def _check_migrations(self) -> str:
        migrate.check(self._database)
        return "the schema is the one of this code"

    def _check_redis(self) -> str:
        client.check(self._redis)
        return "answers"

    def _check_relay(self) -> str:
        with self._database.read() as connection:
            turned_at = relay_state.get(connection).turned_at
        try:
            return self._recent("the relay", "turned", turned_at, RELAY_SILENT_AFTER)
        except Misconfigured as error:
            # It waits for Redis with everything else; whether it lives nobody can see meanwhile.
            if self._redis_answers():
                raise
            return f"not known: it does not turn without Redis ({error.detail})"

    def _check_beat(self) -> str:
        if not self._needs_beat:
            return "not needed: the relay looks for what is due"
        ticked_at, passed_on = self._last_tick()
        try:
            return self._recent("beat", "ticked", ticked_at, _BEAT_SILENT_AFTER)
        except Misconfigured:
            if passed_on:
                raise
            return "not known: it says so in Redis, which does not answer"

    def _last_tick(self) -> tuple[dt.datetime | None, bool]:
        """Beat's last tick, and whether Redis said so too: there it expires soon, in SQL only the relay writes it."""
        with self._database.read() as connection:
            noted = relay_state.get(connection).beat_tick_at
        try:
            return beat_keys.last_tick(self._redis) or noted, True
        except redis.RedisError:
            return noted, False

    def _redis_answers(self) -> bool:
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    def _check_workers(self) -> str:
        with self._database.read() as connection:
            live = len(workers.live(connection))
        if live == 0:
            raise Misconfigured("no live worker: what is accepted waits; start celery -A jobworker worker")
        return f"{live} live"

    def _check_schedules(self) -> str:
        now = self._clock.now()
        with self._database.read() as connection:
            late = overdue.look(connection, now)
        if late.count:
            raise Misconfigured(late.told(now))
        return "none is overdue"

    def _check_rows(self) -> str:
        """Name what this process could not read; one row must not take the whole service out of use."""
        found = unreadable.found.problems()
        if not found:
            return "all that were read can be read"
        named = "; ".join(f"{what}: {problem}" for what, problem in list(found.items())[:_NAMED])
        more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return f"{len(found)} cannot be read: {named}{more}"

    def _recent(self, who: str, did: str, at: dt.datetime | None, limit: float) -> str:
        age = _age(at, self._clock.now())
        if age is None:
            raise Misconfigured(f"{who} never {did}; is it started?")
        if age > limit:
            raise Misconfigured(f"{who} last {did} {age:.0f} s ago; more than {limit:.0f} s is too long")
        return f"{who} {did} {age:.1f} s ago"


def _run(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except Misconfigured as error:
        return Check(name, False, error.detail)
    except redis.RedisError as error:
        return Check(name, False, f"Redis does not answer: {error}")
    except UNAVAILABLE as error:
        return Check(name, False, f"the database does not answer: {getattr(error, 'orig', error)}")
    except sa.exc.SQLAlchemyError:
        return Check(name, False, "the database does not have the schema of this code")


def _age(at: dt.datetime | None, now: dt.datetime) -> float | None:
    return None if at is None else max(0.0, (now - at).total_seconds())
