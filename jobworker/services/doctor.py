"""Checks of an installation; each finding contains its remedy."""

import importlib.metadata
import platform
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import redis
import sqlalchemy as sa
from packaging.requirements import Requirement

from jobworker import loading
from jobworker.clock import Clock
from jobworker.declare import declarations
from jobworker.domain.errors import ConfigurationError, DatabaseBusy
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.services.health import CheckResult, HealthChecker
from jobworker.services.schedules import time_zone_updates
from jobworker.settings import Settings, mask_password
from jobworker.store.database.database import Database
from jobworker.transport.client import check_server, connect_redis, find_warnings

#: Maximum number of moving schedules listed; the relay's log names all of them.
_MAX_MOVES_SHOWN = 100

#: First SQLite version in which concurrent checkpoints cannot (rarely) damage a database in WAL mode.
_MIN_SAFE_SQLITE_VERSION = (3, 51, 3)


class DoctorLevel(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """Result of one check. `more` contains further lines, for example a traceback."""

    level: DoctorLevel
    subject: str
    detail: str
    more: str = ""


def examine_installation(settings: Settings, clock: Clock) -> Iterator[DoctorFinding]:
    """Yield the findings of all checks; a check that cannot run is a finding too."""
    yield _check_python()
    yield from _check_dependencies()
    yield _check_settings(settings)
    sections: list[tuple[str, Callable[[], Iterator[DoctorFinding]]]] = [
        ("database", lambda: _check_database(settings, clock)),
        ("redis server", lambda: _check_redis(settings)),
        ("tasks", lambda: _check_tasks(settings)),
        ("schedules", lambda: _check_schedules(settings)),
    ]
    for subject, look in sections:
        try:
            yield from look()
        except ConfigurationError as error:
            yield DoctorFinding(DoctorLevel.FAIL, subject, error.detail)


def _check_python() -> DoctorFinding:
    return DoctorFinding(DoctorLevel.OK, "python", f"{platform.python_version()} ({sys.executable})")


def _check_settings(settings: Settings) -> DoctorFinding:
    try:
        settings.require_home()
    except ConfigurationError as error:
        return DoctorFinding(
            DoctorLevel.FAIL if settings.database_in_home else DoctorLevel.WARN, "settings", error.detail
        )
    return DoctorFinding(DoctorLevel.OK, "settings", f"home {settings.home}, API on {settings.bind}")


def _check_dependencies() -> Iterator[DoctorFinding]:
    try:
        requirements = importlib.metadata.requires("jobworker") or []
    except importlib.metadata.PackageNotFoundError:
        yield DoctorFinding(
            DoctorLevel.WARN, "packages", "jobworker is not installed as a package: run pip install -e ."
        )
        return
    problems = [problem for text in requirements if (problem := _describe_unmet_requirement(Requirement(text)))]
    if problems:
        yield DoctorFinding(
            DoctorLevel.FAIL, "packages", f"{'; '.join(problems)}: run pip install -c constraints.txt -e ."
        )
    else:
        yield DoctorFinding(
            DoctorLevel.OK, "packages", f"jobworker {importlib.metadata.version('jobworker')}, all as required"
        )


def _describe_unmet_requirement(requirement: Requirement) -> str | None:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version} is not {requirement.specifier}"


def _check_database(settings: Settings, clock: Clock) -> Iterator[DoctorFinding]:
    """Check the database, and the state that the other processes recorded there."""
    shown = mask_password(settings.database_url)
    database = Database(settings.database_url)
    if database.is_sqlite:
        yield _check_sqlite()
    try:
        for result in HealthChecker(database, settings, clock).run_checks():
            yield _to_finding(result, shown)
        yield from _check_time_zone_moves(database)
    finally:
        database.dispose()


def _to_finding(result: CheckResult, database_url: str) -> DoctorFinding:
    detail = f"{database_url}: {result.detail}" if result.name == "database" else result.detail
    if result.ok:
        return DoctorFinding(DoctorLevel.WARN if result.warning else DoctorLevel.OK, result.name, detail)
    # Without beat everything runs except executions that schedules start.
    level = DoctorLevel.WARN if result.name in ("beat", "schedules") else DoctorLevel.FAIL
    return DoctorFinding(level, result.name, f"{detail}{_REMEDIES.get(result.name, '')}")


def _check_time_zone_moves(database: Database) -> Iterator[DoctorFinding]:
    """Yield a finding for schedules that other time zone data will move."""
    try:
        with database.read() as connection:
            pending = time_zone_updates.find_pending_moves(connection)
    except (sa.exc.SQLAlchemyError, DatabaseBusy):
        return  # The health checks report the reason.
    if pending is None or not pending.moves:
        return
    names = "1 schedule moves" if len(pending.moves) == 1 else f"{len(pending.moves)} schedules move"
    detail = (
        f"{names} when a relay with {DATA_VERSION} leads; due times were computed with {pending.version}. No "
        "occurrence is left out and none runs twice: restart the relay with this version of tzdata if that is meant"
    )
    lines = [move.describe() for move in pending.moves[:_MAX_MOVES_SHOWN]]
    hidden_count = len(pending.moves) - len(lines)
    yield DoctorFinding(
        DoctorLevel.WARN,
        "time_zone_data",
        detail,
        "\n".join([*lines, *([f"and {hidden_count} more"] if hidden_count else [])]),
    )


_REMEDIES = {
    "database": "; see that it runs and its disk has free space, or correct JOBWORKER_DATABASE_URL",
    "redis": "; see that it runs and accepts writes, or correct JOBWORKER_REDIS_URL",
    "relay": "; start jobworker relay: nothing runs without it",
    "beat": "; start celery -A jobworker beat: schedules do not fire without it",
    "schedules": "; check relay and beat: late occurrences are then handled by the misfire policy of each schedule",
}


def _check_sqlite() -> DoctorFinding:
    if sqlite3.sqlite_version_info >= _MIN_SAFE_SQLITE_VERSION:
        return DoctorFinding(DoctorLevel.OK, "sqlite", sqlite3.sqlite_version)
    sound = ".".join(map(str, _MIN_SAFE_SQLITE_VERSION))
    return DoctorFinding(
        DoctorLevel.WARN,
        "sqlite",
        f"{sqlite3.sqlite_version} can, rarely, damage a database that several programs checkpoint (before {sound}). "
        "JobWorker's processes do so one at a time: do not write to the file with other programs while it runs",
    )


def _check_redis(settings: Settings) -> Iterator[DoctorFinding]:
    """Check version, settings and persistence of Redis; whether Redis responds is a health check."""
    with connect_redis(settings.redis_url) as client:
        try:
            yield _check_redis_persistence(client)
            yield _check_redis_version(client)
        except redis.RedisError:
            return


def _check_redis_version(client: redis.Redis) -> DoctorFinding:
    check_server(client)
    server = client.info("server")
    version = server.get("valkey_version") or server["redis_version"]
    name = "Valkey" if "valkey_version" in server else "Redis"
    return DoctorFinding(DoctorLevel.OK, "redis server", f"{name} {version}, never evicts")


def _check_redis_persistence(client: redis.Redis) -> DoctorFinding:
    wrong = find_warnings(client)
    if wrong:
        return DoctorFinding(
            DoctorLevel.WARN, "redis data", f"{'; '.join(wrong)}: see Redis's own log, its disk and its memory"
        )
    persistence = client.info("persistence")
    if persistence.get("aof_enabled"):
        return DoctorFinding(DoctorLevel.OK, "redis data", "kept in an append-only file")
    return DoctorFinding(
        DoctorLevel.WARN,
        "redis data",
        "no append-only file: after a crash of Redis what was queued is dispatched again from the database, "
        "which takes a while; set appendonly yes",
    )


def _check_tasks(settings: Settings) -> Iterator[DoctorFinding]:
    broken = loading.load_modules(settings.tasks)
    for module in broken:
        detail = f"{module.module} does not import ({module}): workers run without its jobs until it is fixed"
        yield DoctorFinding(DoctorLevel.FAIL, "tasks", detail, module.traceback)
    if not broken:
        yield DoctorFinding(DoctorLevel.OK, "tasks", f"every module of {settings.tasks} imports")


def _check_schedules(settings: Settings) -> Iterator[DoctorFinding]:
    if not loading.is_package(settings.schedules):
        return
    broken = declarations.load_declarations(settings.schedules).broken_modules
    for module in broken:
        detail = f"{module.module} does not import ({module}): no schedule in code changes until it is fixed"
        yield DoctorFinding(DoctorLevel.FAIL, "schedules", detail, module.traceback)
    if not broken:
        yield DoctorFinding(DoctorLevel.OK, "schedules", f"every module of {settings.schedules} imports")
