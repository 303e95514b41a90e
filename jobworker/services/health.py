"""Health checks by name, and the statistics for `/metrics`."""

import datetime as dt
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis
import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError, DatabaseBusy
from jobworker.domain.executions.blockers import RELAY_TIMEOUT_SECONDS
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.services.probe import Probe
from jobworker.services.schedules import overdue_schedules, time_zone_updates
from jobworker.settings import Settings
from jobworker.store import migrate, relay_state, unreadable_rows, workers
from jobworker.store.database import probe
from jobworker.store.database.database import UNAVAILABLE, Database
from jobworker.store.executions import executions
from jobworker.store.schedules import schedule_queries
from jobworker.telemetry.metrics import SystemStatistics
from jobworker.transport import client
from jobworker.transport.beat import beat_keys

logger = structlog.get_logger(__name__)

#: Timeout of Redis commands (s); short, because a health check must not hang.
_REDIS_TIMEOUT_SECONDS = 0.5

#: Minimum free disk space, in request bodies of the maximum size: a body is written to the write-ahead log and then to
#: the database, and the events of running jobs need as much again in the meantime.
_MIN_FREE_BODIES = 4

#: Maximum length of a warning in the log (characters).
_MAX_WARNING_LENGTH = 300

_MIB = 1024 * 1024

#: Maximum number of unusable items named.
_MAX_ITEMS_SHOWN = 10

#: Time after which no further check of the database begins (s).
_CHECKS_TIMEOUT_SECONDS = 5.0

_DATABASE_CHECKS = frozenset({"migrations", "relay", "beat", "workers", "schedules", "time_zone_data", "content"})

#: Age of beat's last tick above which beat counts as stopped (s). Beat ticks every few seconds; the takeover from a
#: dead beat takes longer.
_BEAT_SILENT_AFTER = 45.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one health check."""

    name: str
    ok: bool
    detail: str
    #: Whether action is needed although the check passes.
    warning: bool = False
    #: Whether the database did not respond.
    unanswered: bool = False


class HealthChecker:
    """Checks of the database, of Redis, and of the state that the other processes record in SQL."""

    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._redis = client.connect_redis(settings.redis_url, timeout=_REDIS_TIMEOUT_SECONDS)
        self._clock = clock
        self._needs_beat = settings.needs_beat
        self._logged: set[str] = set()
        self._least_free = _MIN_FREE_BODIES * settings.max_body
        self._folders = {"files": settings.home}
        if database.is_sqlite:
            self._folders = {"database": Path(str(database.url.database)).absolute().parent, **self._folders}
        self._read = Probe(lambda: probe.check_read(database), clock, "a read", max_age=0.0)
        self._write = Probe(lambda: probe.check_write(database, clock.now()), clock)

    def run_checks(self) -> list[CheckResult]:
        """Check everything that is needed to run accepted executions on time.

        Without the database nothing is accepted. If another check fails, executions are accepted and run later.
        """
        checks: list[tuple[str, Callable[[], str]]] = [
            ("database", self._check_database),
            ("disk", self._check_disk),
            ("migrations", self._check_migrations),
            ("redis", self._check_redis),
            ("relay", self._check_relay),
            ("beat", self._check_beat),
            ("workers", self._check_workers),
            ("schedules", self._check_schedules),
            ("time_zone_data", self._check_zone_data),
            ("content", self._check_content),
        ]
        results: list[CheckResult] = []
        deadline = self._clock.monotonic() + _CHECKS_TIMEOUT_SECONDS
        for name, check in checks:
            if name in _DATABASE_CHECKS and any(result.unanswered for result in results):
                results.append(
                    CheckResult(name, False, "not known: the database has not responded to a check before this one")
                )
            elif name in _DATABASE_CHECKS and self._clock.monotonic() > deadline:
                results.append(
                    CheckResult(
                        name,
                        False,
                        f"not known: the checks before this one took more than {_CHECKS_TIMEOUT_SECONDS:g} s",
                    )
                )
            else:
                results.append(_run_check(name, check))
        return results

    def log_warnings(self, checks: Sequence[CheckResult]) -> None:
        """Log the warnings that are new since the last call."""
        warnings = {check.detail for check in checks if check.warning}
        for detail in sorted(warnings - self._logged):
            logger.warning(
                "health_warning",
                why=textwrap.shorten(detail, _MAX_WARNING_LENGTH, placeholder=" … (GET /readyz returns all)"),
            )
        self._logged = warnings

    def collect_statistics(self) -> SystemStatistics | None:
        """Return the statistics for `/metrics`; None if the database does not respond."""
        now = self._clock.now()
        try:
            with self._database.read() as connection:
                state = relay_state.get(connection)
                late = overdue_schedules.find_overdue(connection, now)
                return SystemStatistics(
                    unfinished={state.value: count for state, count in executions.count_unfinished(connection).items()},
                    backlog=executions.get_backlogs(connection),
                    live_workers=len(workers.list_live(connection)),
                    relay_lag=_compute_age(state.turned_at, now),
                    beat_age=_compute_age(state.beat_tick_at, now),
                    schedules={
                        status.value: number
                        for status, number in schedule_queries.count_by_status(connection, now).items()
                    },
                    overdue=late.count,
                    lateness=late.compute_lateness(now),
                    log_bytes=self._database.get_log_size(),
                )
        except (sa.exc.SQLAlchemyError, DatabaseBusy):
            return None

    def _check_database(self) -> str:
        try:
            self._read.check()
        except ConfigurationError as error:
            raise sa.exc.TimeoutError(error.detail) from error
        try:
            self._database.require_log_space()
            self._write.check()
        except UNAVAILABLE as error:
            where = f" ({self._folders['database']})" if self._database.is_sqlite else ""
            raise ConfigurationError(
                f"the database{where} does not accept writes: {getattr(error, 'orig', error)}"
            ) from error
        return f"{self._database.url.get_backend_name()} responds and accepts writes"

    def _check_disk(self) -> str:
        free = {purpose: (folder, _get_free_bytes(folder)) for purpose, folder in self._folders.items()}
        sizes = [f"{size / _MIB:,.0f} MiB free for {purpose} in {folder}" for purpose, (folder, size) in free.items()]
        if any(size < self._least_free for _, size in free.values()):
            least = (
                f"at least {self._least_free / _MIB:,.0f} MiB are needed ({_MIN_FREE_BODIES} times JOBWORKER_MAX_BODY)"
            )
            raise ConfigurationError(f"{', '.join(sizes)}; {least}: delete something, or enlarge the disk")
        return ", ".join(sizes)

    def _check_migrations(self) -> str:
        migrate.check_revision(self._database)
        return "the schema is the one of this code"

    def _check_redis(self) -> str:
        client.check_server(self._redis)
        client.require_writable(self._redis)
        return "responds and accepts writes"

    def _check_relay(self) -> str:
        with self._database.read() as connection:
            turned_at = relay_state.get(connection).turned_at
        try:
            return self._check_recent("the relay", "turned", turned_at, RELAY_TIMEOUT_SECONDS)
        except ConfigurationError as error:
            # The relay blocks while Redis is unavailable; whether the relay is alive is unknown then.
            if self._is_redis_available():
                raise
            return f"not known: the relay does not run without Redis ({error.detail})"

    def _check_beat(self) -> str:
        if not self._needs_beat:
            return "not needed: the relay polls for due schedules"
        ticked_at, passed_on = self._get_last_tick()
        try:
            return self._check_recent("beat", "ticked", ticked_at, _BEAT_SILENT_AFTER)
        except ConfigurationError:
            if passed_on:
                raise
            return "not known: beat reports its ticks in Redis, which does not respond"

    def _get_last_tick(self) -> tuple[dt.datetime | None, bool]:
        """Return beat's last tick, and whether Redis could be read.

        The tick in Redis expires soon; the one in SQL is written by the relay only.
        """
        with self._database.read() as connection:
            noted = relay_state.get(connection).beat_tick_at
        try:
            return beat_keys.get_last_tick(self._redis) or noted, True
        except redis.RedisError:
            return noted, False

    def _is_redis_available(self) -> bool:
        try:
            return bool(self._redis.ping())
        except redis.ResponseError:
            return True  # Redis rejects even PING when its disk is full.
        except redis.RedisError:
            return False

    def _check_workers(self) -> str:
        with self._database.read() as connection:
            live = len(workers.list_live(connection))
        if live == 0:
            raise ConfigurationError("no live worker: accepted executions wait; start celery -A jobworker worker")
        return f"{live} live"

    def _check_schedules(self) -> str:
        now = self._clock.now()
        with self._database.read() as connection:
            late = overdue_schedules.find_overdue(connection, now)
        if late.count:
            raise ConfigurationError(late.describe(now))
        return "none is overdue"

    def _check_zone_data(self) -> str:
        with self._database.read() as connection:
            disagreement = time_zone_updates.describe_disagreement(connection, self._redis)
        if disagreement:
            raise _HealthWarning(disagreement)
        return DATA_VERSION

    def _check_content(self) -> str:
        """Return the items that the relay skips and those that this process could not read.

        They are a warning and no failure, because an item that any client can write must not make the service unready.
        """
        with self._database.read() as connection:
            problems = {problem["what"]: problem["detail"] for problem in relay_state.get_problems(connection)}
        problems |= unreadable_rows.problem_log.get_problems()
        if not problems:
            return "no unusable item was found"
        named = "; ".join(f"{item}: {problem}" for item, problem in list(problems.items())[:_MAX_ITEMS_SHOWN])
        more = f"; and {len(problems) - _MAX_ITEMS_SHOWN} more" if len(problems) > _MAX_ITEMS_SHOWN else ""
        raise _HealthWarning(f"{len(problems)} cannot be used and are skipped: {named}{more}")

    def _check_recent(self, component: str, did: str, at: dt.datetime | None, limit: float) -> str:
        age = _compute_age(at, self._clock.now())
        if age is None:
            raise ConfigurationError(f"{component} never {did}; has it been started?")
        if age > limit:
            raise ConfigurationError(f"{component} last {did} {age:.0f} s ago; more than {limit:.0f} s is too long")
        return f"{component} {did} {age:.1f} s ago"


class _HealthWarning(Exception):
    """Warning of a check that passes although action is needed."""


def _run_check(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except _HealthWarning as warning:
        return CheckResult(name, True, str(warning), warning=True)
    except (ConfigurationError, OSError) as error:
        return CheckResult(name, False, getattr(error, "detail", str(error)))
    except redis.RedisError as error:
        return CheckResult(name, False, f"Redis does not respond: {error}")
    except UNAVAILABLE as error:
        busy_detail = error.detail if isinstance(error, DatabaseBusy) else None
        detail = busy_detail or f"the database does not respond: {getattr(error, 'orig', error)}"
        return CheckResult(name, False, detail, unanswered=True)
    except sa.exc.SQLAlchemyError:
        return CheckResult(name, False, "the database does not have the schema of this code")


def _get_free_bytes(folder: Path) -> int:
    """Return the free bytes, for ordinary users, on the disk of a folder; the folder need not exist yet."""
    existing_folder = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing_folder).free


def _compute_age(at: dt.datetime | None, now: dt.datetime) -> float | None:
    return None if at is None else max(0.0, (now - at).total_seconds())
