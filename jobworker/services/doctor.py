"""What may be wrong with an installation, one finding after the other, each with what to do about it."""

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
from jobworker.declare import schedules as declarations
from jobworker.domain.errors import DatabaseBusy, Misconfigured
from jobworker.domain.zones import DATA_VERSION
from jobworker.services import zone_data
from jobworker.services.health import Check, Health
from jobworker.settings import Settings, without_password
from jobworker.store.database import Database
from jobworker.transport.client import check, complaints, connect

#: Schedules that are listed; the relay's log names all of them.
_MOST_MOVES = 100

#: Before this version concurrent checkpoints of SQLite could, rarely, damage a database in WAL mode.
_SQLITE_SOUND = (3, 51, 3)


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `more` holds further lines, a traceback for instance."""

    level: Level
    subject: str
    detail: str
    more: str = ""


def examine(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """Look at everything; what cannot be looked at is a finding too."""
    yield _python()
    yield from _dependencies()
    yield _settings(settings)
    sections: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("database", lambda: _database(settings, clock)),
        ("redis server", lambda: _redis(settings)),
        ("tasks", lambda: _tasks(settings)),
        ("schedules", lambda: _schedules(settings)),
    ]
    for subject, look in sections:
        try:
            yield from look()
        except Misconfigured as error:
            yield Finding(Level.FAIL, subject, error.detail)


def _python() -> Finding:
    return Finding(Level.OK, "python", f"{platform.python_version()} ({sys.executable})")


def _settings(settings: Settings) -> Finding:
    try:
        settings.require_home()
    except Misconfigured as error:
        return Finding(Level.FAIL if settings.database_in_home else Level.WARN, "settings", error.detail)
    return Finding(Level.OK, "settings", f"home {settings.home}, API on {settings.bind}")


def _dependencies() -> Iterator[Finding]:
    try:
        wanted = importlib.metadata.requires("jobworker") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(Level.WARN, "packages", "jobworker is not installed as a package: run pip install -e .")
        return
    problems = [problem for text in wanted if (problem := _lacking(Requirement(text)))]
    if problems:
        yield Finding(Level.FAIL, "packages", f"{'; '.join(problems)}: run pip install -c constraints.txt -e .")
    else:
        yield Finding(Level.OK, "packages", f"jobworker {importlib.metadata.version('jobworker')}, all as required")


def _lacking(requirement: Requirement) -> str | None:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version} is not {requirement.specifier}"


def _database(settings: Settings, clock: Clock) -> Iterator[Finding]:
    """The database, and what the other processes left there."""
    shown = without_password(settings.database_url)
    database = Database(settings.database_url)
    if database.is_sqlite:
        yield _sqlite()
    try:
        for result in Health(database, settings, clock).run_checks():
            yield _from_check(result, shown)
        yield from _moves(database)
    finally:
        database.dispose()


def _from_check(result: Check, database_url: str) -> Finding:
    detail = f"{database_url}: {result.detail}" if result.name == "database" else result.detail
    if result.ok:
        return Finding(Level.WARN if result.warning else Level.OK, result.name, detail)
    # Without beat everything runs but what a schedule starts.
    level = Level.WARN if result.name in ("beat", "schedules") else Level.FAIL
    return Finding(level, result.name, f"{detail}{_REMEDIES.get(result.name, '')}")


def _moves(database: Database) -> Iterator[Finding]:
    """Schedules that other time zone data will move."""
    try:
        with database.read() as connection:
            found = zone_data.pending(connection)
    except (sa.exc.SQLAlchemyError, DatabaseBusy):
        return  # The checks have said why.
    if found is None or not found.moves:
        return
    names = "1 schedule moves" if len(found.moves) == 1 else f"{len(found.moves)} schedules move"
    detail = (
        f"{names} when a relay with {DATA_VERSION} leads; what is due was worked out with {found.version}. No "
        "occurrence is left out and none runs twice: restart the relay with this version of tzdata if that is meant"
    )
    told = [move.describe() for move in found.moves[:_MOST_MOVES]]
    left = len(found.moves) - len(told)
    yield Finding(Level.WARN, "time_zone_data", detail, "\n".join([*told, *([f"and {left} more"] if left else [])]))


_REMEDIES = {
    "database": "; see that it runs and its disk has room, or correct JOBWORKER_DATABASE_URL",
    "redis": "; see that it runs and takes writes, or correct JOBWORKER_REDIS_URL",
    "relay": "; start jobworker relay: nothing runs without it",
    "beat": "; start celery -A jobworker beat: schedules do not fire without it",
    "schedules": "; see to relay and beat: all that is late is made up for as each schedule says",
}


def _sqlite() -> Finding:
    if sqlite3.sqlite_version_info >= _SQLITE_SOUND:
        return Finding(Level.OK, "sqlite", sqlite3.sqlite_version)
    sound = ".".join(map(str, _SQLITE_SOUND))
    return Finding(
        Level.WARN,
        "sqlite",
        f"{sqlite3.sqlite_version} can, rarely, damage a database that several programs checkpoint (before {sound}). "
        "JobWorker's processes do so one at a time: do not write to the file with other programs while it runs",
    )


def _redis(settings: Settings) -> Iterator[Finding]:
    """What a Redis has to be like, besides answering (which the health check has said)."""
    with connect(settings.redis_url) as client:
        try:
            yield _redis_persistence(client)
            yield _redis_version(client)
        except redis.RedisError:
            return


def _redis_version(client: redis.Redis) -> Finding:
    check(client)
    server = client.info("server")
    version = server.get("valkey_version") or server["redis_version"]
    name = "Valkey" if "valkey_version" in server else "Redis"
    return Finding(Level.OK, "redis server", f"{name} {version}, never evicts")


def _redis_persistence(client: redis.Redis) -> Finding:
    wrong = complaints(client)
    if wrong:
        return Finding(Level.WARN, "redis data", f"{'; '.join(wrong)}: see Redis's own log, its disk and its memory")
    persistence = client.info("persistence")
    if persistence.get("aof_enabled"):
        return Finding(Level.OK, "redis data", "kept in an append-only file")
    return Finding(
        Level.WARN,
        "redis data",
        "no append-only file: after a crash of Redis what was queued is dispatched again from the database, "
        "which takes a while; set appendonly yes",
    )


def _tasks(settings: Settings) -> Iterator[Finding]:
    broken = loading.load(settings.tasks)
    for module in broken:
        detail = f"{module.module} does not import ({module}): workers run without its jobs until it is mended"
        yield Finding(Level.FAIL, "tasks", detail, module.traceback)
    if not broken:
        yield Finding(Level.OK, "tasks", f"every module of {settings.tasks} imports")


def _schedules(settings: Settings) -> Iterator[Finding]:
    if not loading.exists(settings.schedules):
        return
    broken = declarations.read(settings.schedules).broken_modules
    for module in broken:
        detail = f"{module.module} does not import ({module}): no schedule in code changes until it is mended"
        yield Finding(Level.FAIL, "schedules", detail, module.traceback)
    if not broken:
        yield Finding(Level.OK, "schedules", f"every module of {settings.schedules} imports")
