"""The worker's pulse: it says that it lives, and ends when it is told that it was given up."""

import os
import signal
import threading
from typing import Any

import redis
import structlog
from billiard import active_children
from celery import bootsteps

from jobworker.clock import SystemClock
from jobworker.settings import Settings
from jobworker.transport.catalogue import describe
from jobworker.transport.registry import Announcement, Pulse, Registry
from jobworker.worker.announce import announcement
from jobworker.worker.request import running, tell_untold
from jobworker.worker.task import JobTask

logger = structlog.get_logger(__name__)


class Heartbeat:
    """One worker's beats. `beat` is called by a timer and must not raise."""

    def __init__(self, registry: Registry, announcement: Announcement, catalogue: list[dict[str, Any]]) -> None:
        self._registry = registry
        self._announcement = announcement
        self._catalogue = catalogue

    def beat(self) -> None:
        """Tell Redis that this worker lives; end it when another has taken its place."""
        worker = self._announcement.worker
        try:
            pulse = self._registry.heartbeat(worker, [(job.execution, job.attempt) for job in running()])
            if pulse is Pulse.UNKNOWN:
                self._announce()
        except redis.RedisError as error:
            logger.warning("heartbeat_missed", error=str(error))
            return
        if pulse is Pulse.FENCED:
            logger.error(
                "worker_was_given_up", worker=worker, why="its heartbeat had stopped for longer than its lease"
            )
            _end_now()
        tell_untold()

    def _announce(self) -> None:
        """Make this worker known; if Redis lost its data, what it is running, too."""
        self._registry.announce(self._announcement, self._catalogue)
        assert JobTask.runner is not None
        for delivery in running():
            JobTask.runner.link.claims.restore(delivery.ticket(self._announcement.worker))

    def leave(self) -> None:
        """Say goodbye, unless something is still running: then silence must tell it."""
        if running():
            return
        try:
            self._registry.leave(self._announcement.worker)
        except redis.RedisError as error:
            logger.warning("goodbye_missed", error=str(error))


def _end_now() -> None:
    # The jobs running here belong to somebody else now: children first, so that none outlives us.
    for child in active_children():
        os.kill(child.pid, signal.SIGKILL)
    os._exit(1)


class HeartbeatStep(bootsteps.StartStopStep):
    """Beats from the event loop where the pool forks, since threads and fork do not mix; else from a thread."""

    # Early: what comes later (mingle) takes a second, and the lease runs.
    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer_entry: Any = None
        self._stopped = threading.Event()

    def start(self, consumer: Any) -> None:
        """Announce the worker and begin to beat. Runs again after each reconnection."""
        settings = Settings.from_environment()
        heartbeat = self._heartbeat(consumer, settings)
        consumer.jobworker_heartbeat = heartbeat
        heartbeat.beat()
        if _forks(consumer.pool):
            self._timer_entry = consumer.timer.call_repeatedly(settings.heartbeat_interval, heartbeat.beat)
        else:
            self._stopped = threading.Event()
            arguments = (heartbeat, settings.heartbeat_interval, self._stopped)
            threading.Thread(target=_beat_until, args=arguments, name="heartbeat", daemon=True).start()

    def stop(self, consumer: Any) -> None:
        """Stop beating, for good or until the connection is back."""
        self._stopped.set()
        if self._timer_entry is not None:
            self._timer_entry.cancel()
            self._timer_entry = None

    def _heartbeat(self, consumer: Any, settings: Settings) -> Heartbeat:
        assert JobTask.runner is not None
        offered = describe(consumer.app)
        registry = Registry(JobTask.runner.link.client, settings.worker_lease)
        return Heartbeat(registry, announcement(consumer, JobTask.runner, offered, SystemClock()), offered)


def _forks(pool: Any) -> bool:
    return "prefork" in type(pool).__module__


def _beat_until(heartbeat: Heartbeat, interval: float, stopped: threading.Event) -> None:
    while not stopped.wait(interval):
        heartbeat.beat()
