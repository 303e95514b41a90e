"""`jobworker up` itself: checks the preconditions, and starts and stops all services in order."""

import contextlib
import os
import shlex
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import redis

from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError
from jobworker.orphan_reaper import OrphanReaper
from jobworker.settings import Settings, mask_password
from jobworker.transport.client import check_server, connect_redis
from jobworker.up import addresses, passwords, procfile
from jobworker.up.banner import Endpoints, StartupBanner
from jobworker.up.lock import HomeLock
from jobworker.up.output import ProcessOutput
from jobworker.up.procfile import Service
from jobworker.up.redis_server import EmbeddedRedis
from jobworker.up.supervisor import StopStage, Supervisor

REDIS_SERVICE = "redis"

#: Timeout of Redis's start, because a big append-only file takes time to load (s).
_REDIS_START_TIMEOUT_SECONDS = 300.0

#: Maximum number of starts of Redis, because another program may take the free port before Redis listens on it.
_MAX_REDIS_STARTS = 3

#: Timeout in which a worker finishes its running jobs: 45 s were too few under load (s).
_WORKER_STOP_TIMEOUT_SECONDS = 60.0

#: Name of beat in the Procfile.
_BEAT_SERVICE = "beat"

#: Timeout of a service's stop; granian itself gives its streams 10 s (s).
_STOP_TIMEOUT_SECONDS = 20.0


def run_all_services(settings: Settings, clock: Clock, demo: bool = False) -> int:
    """Run all services until a stop signal; return the exit code."""
    settings.require_home()
    folder = Path.cwd()
    services = procfile.read(folder / "Procfile")
    if not settings.needs_beat:
        services = [service for service in services if service.name != _BEAT_SERVICE]
    names = [service.name for service in services]
    lock = HomeLock(settings.home)
    descriptor = lock.acquire(clock)
    try:
        endpoints = _make_endpoints(settings, names)
        _require_free_ports(settings, names)
        output = ProcessOutput(clock, [REDIS_SERVICE, *names], settings.home / "logs")
        with contextlib.closing(output), OrphanReaper(descriptor) as reaper:
            supervisor = Supervisor(reaper, output, clock, folder)
            return _Launcher(settings, supervisor, output, clock, endpoints).run(services, demo)
    finally:
        lock.release()


def _make_endpoints(settings: Settings, names: list[str]) -> Endpoints:
    return Endpoints(
        api=addresses.parse(settings.bind, "JOBWORKER_BIND").url if "web" in names else None,
        flower=addresses.parse(settings.flower_bind, "JOBWORKER_FLOWER_BIND").url if "flower" in names else None,
        flower_password="JOBWORKER_FLOWER_PASSWORD"
        if settings.flower_password
        else f"in {_flower_password_path(settings)}",
        database_url=settings.database_url,
    )


def _require_free_ports(settings: Settings, names: list[str]) -> None:
    if "web" in names:
        addresses.require_hosts(settings)
    bindings = {"web": (settings.bind, "JOBWORKER_BIND"), "flower": (settings.flower_bind, "JOBWORKER_FLOWER_BIND")}
    for name, (text, variable) in bindings.items():
        if name in names:
            addresses.require_free(addresses.parse(text, variable), variable)


class _Launcher:
    """A run of `jobworker up`."""

    def __init__(
        self, settings: Settings, supervisor: Supervisor, output: ProcessOutput, clock: Clock, endpoints: Endpoints
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._output = output
        self._clock = clock
        self._endpoints = endpoints
        self._stop_event = threading.Event()

    def run(self, services: list[Service], demo: bool) -> int:
        """Start all services, wait for a signal, stop all services; return the exit code."""
        all_stopped = False
        try:
            redis_url = self._start_redis()
            environment = _build_environment(self._settings, redis_url)
            self._upgrade_database(environment)
            for service in services:
                if not self._supervisor.stop_requested:
                    self._supervisor.start(service, environment)
            self._start_banner(redis_url, demo)
            self._supervisor.wait_until(lambda: False)
        finally:
            self._stop_event.set()
            all_stopped = self._supervisor.stop(_plan_stop_stages(services))
        self._output.write_message("stopped")
        return 0 if all_stopped else 1

    def _start_redis(self) -> str:
        """Return the URL of Redis: the configured one, else that of the embedded Redis, which is started."""
        if configured_url := os.environ.get("JOBWORKER_REDIS_URL"):
            self._check_redis(configured_url)
            return configured_url
        embedded = EmbeddedRedis(self._settings.home)
        if not self._try_start(embedded) and not self._try_start_without_data(embedded):
            raise ConfigurationError(
                f"the embedded Redis does not start; its output is above (data: {embedded.folder})"
            )
        self._supervisor.enable_restart(REDIS_SERVICE)
        embedded.record_writer()
        return embedded.url or ""

    def _try_start(self, embedded: EmbeddedRedis) -> bool:
        # JOBWORKER_* variables are left out, because Redis does not hide its environment.
        plain = {name: value for name, value in os.environ.items() if not name.startswith("JOBWORKER_")}
        for _ in range(_MAX_REDIS_STARTS):
            embedded.prepare()
            self._supervisor.start(Service(REDIS_SERVICE, shlex.join(embedded.command)), plain, restart=False)
            self._supervisor.wait_until(
                lambda: not self._supervisor.is_running(REDIS_SERVICE) or embedded.is_ready(),
                _REDIS_START_TIMEOUT_SECONDS,
            )
            if self._supervisor.is_running(REDIS_SERVICE) or self._supervisor.stop_requested:
                return True
            if not embedded.is_port_taken:
                break
        return False

    def _try_start_without_data(self, embedded: EmbeddedRedis) -> bool:
        """Start Redis in an empty folder; if it fails there, too, its data are not the cause and are restored."""
        if not embedded.has_data or not self._supervisor.has_failed(REDIS_SERVICE):
            return False
        aside, message = embedded.move_data_aside(self._clock.now())
        started = False
        try:
            started = self._try_start(embedded)
        finally:
            if not started:
                embedded.restore_data(aside)
        if started:
            self._output.write_message(message)
        return started

    def _check_redis(self, redis_url: str) -> None:
        """Raise `ConfigurationError` for an unsuitable Redis; an unreachable one may become reachable."""
        with connect_redis(redis_url) as client:
            try:
                check_server(client)
            except redis.RedisError as error:
                self._output.write_message(f"Redis at {mask_password(redis_url)} does not respond yet: {error}")

    def _upgrade_database(self, environment: Mapping[str, str]) -> None:
        """Upgrade the database in a separate process, so that the supervisor stays small."""
        if self._supervisor.stop_requested:
            return
        command = shlex.join([sys.executable, "-m", "jobworker.cli", "db", "upgrade"])
        if self._supervisor.run(Service("db", command), environment) and not self._supervisor.stop_requested:
            raise ConfigurationError("the database cannot be used; the reason is above")

    def _start_banner(self, redis_url: str, demo: bool) -> None:
        if self._endpoints.api and not self._supervisor.stop_requested:
            banner = StartupBanner(self._endpoints, redis_url, self._output, self._clock, self._stop_event)
            threading.Thread(target=banner.run, args=(demo,), name="banner", daemon=True).start()


def _flower_password_path(settings: Settings) -> Path:
    return settings.home / "flower.password"


def _build_environment(settings: Settings, redis_url: str) -> dict[str, str]:
    """Return the environment of the child processes, independent of their folders."""
    return {
        **os.environ,
        # The `celery`, `granian` and `jobworker` of this installation, whether or not it is activated.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "JOBWORKER_HOME": str(settings.home),
        "JOBWORKER_DATABASE_URL": settings.database_url,
        "JOBWORKER_REDIS_URL": redis_url,
        "JOBWORKER_FLOWER_PASSWORD": settings.flower_password
        or passwords.get_or_create(_flower_password_path(settings)),
    }


def _plan_stop_stages(services: list[Service]) -> list[StopStage]:
    """Return the stages of the shutdown: submitting services, workers, relays, Redis."""
    names = [service.name for service in services]
    workers = tuple(name for name in names if name.startswith("worker"))
    relays = tuple(name for name in names if name.startswith("relay"))
    others = tuple(name for name in names if name not in workers + relays)
    return [
        StopStage((*others, "db"), _STOP_TIMEOUT_SECONDS),
        StopStage(workers, _WORKER_STOP_TIMEOUT_SECONDS, runs_jobs=True),
        StopStage(relays, _STOP_TIMEOUT_SECONDS),
        StopStage((REDIS_SERVICE,), _STOP_TIMEOUT_SECONDS, repeat_terminate=True),
    ]
