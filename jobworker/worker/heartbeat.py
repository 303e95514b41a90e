"""The heartbeat of a worker: reports that the worker is alive, and ends a worker that was declared dead."""

import contextlib
import functools
import threading
from typing import Any

import redis
import structlog

from jobworker.clock import SystemClock
from jobworker.settings import Settings
from jobworker.transport.broker.channel import Channel
from jobworker.transport.claims import Claims
from jobworker.transport.task_catalog import describe_tasks
from jobworker.transport.worker_registry import HeartbeatStatus, WorkerAnnouncement, WorkerRegistry
from jobworker.worker.attempt.runner import AttemptRunner
from jobworker.worker.celery.pool import is_prefork
from jobworker.worker.celery.task import JobTask
from jobworker.worker.periodic_step import PeriodicStep
from jobworker.worker.registration import make_announcement
from jobworker.worker.watchdog import Watchdog

logger = structlog.get_logger(__name__)

#: Maximum number of lease periods in which a worker may fetch nothing although messages wait and a pool process is
#: free. After that the worker is ended.
_MAX_IDLE_LEASES = 4


class Heartbeat:
    """The heartbeats of one worker. `beat` is called by a timer and must not raise."""

    def __init__(
        self, registry: WorkerRegistry, claims: Claims, announcement: WorkerAnnouncement, catalog: list[dict[str, Any]]
    ) -> None:
        assert JobTask.runner is not None
        self._in_flight = JobTask.runner.in_flight
        self._registry = registry
        self._claims = claims
        self._announcement = announcement
        self._catalog = catalog
        self._lock = threading.RLock()
        self._deregistered = False

    def send(self) -> None:
        """Report to Redis that this worker is alive, and reap workers whose heartbeats stopped."""
        with self._lock:
            if not self._deregistered:
                self._send()

    def _send(self) -> None:
        running = [(claim.execution, claim.attempt) for claim in self._in_flight.list_claims()]
        try:
            response = self._registry.send_heartbeat(self._announcement, running)
            if response.status is HeartbeatStatus.FENCED:
                self._in_flight.outbox.end_fenced_worker()
            if response.status is HeartbeatStatus.UNKNOWN:
                self._announce()
            for worker in response.silent_workers:
                if self._registry.reap_worker(worker):
                    logger.warning("worker_reaped", worker=worker)
        except redis.RedisError as error:
            logger.warning("heartbeat_missed", error=str(error))
            return
        if self._in_flight.outbox.call_soon is None:
            self._in_flight.outbox.flush()

    def _announce(self) -> None:
        """Register this worker and, because Redis may have lost its data, restore the claims of its attempts."""
        self._registry.announce(self._announcement, self._catalog)
        for claim in self._in_flight.list_claims():
            self._claims.restore(claim)

    def deregister(self) -> None:
        """Remove this worker from the registry and beat no more.

        If reports are pending, the worker stays registered, so that its lease expires and its executions are rescued.
        """
        with self._lock:
            self._deregistered = True
            if self._in_flight.is_empty():
                self._remove_from_registry()

    def _remove_from_registry(self) -> None:
        try:
            self._registry.deregister(self._announcement.worker)
        except redis.RedisError as error:
            logger.warning("deregistration_failed", error=str(error))


class HeartbeatStep(PeriodicStep):
    """The consumer step that announces the worker and sends its heartbeats."""

    def start(self, consumer: Any) -> None:
        """Announce the worker and begin to send heartbeats."""
        assert JobTask.runner is not None
        self.cancel()
        settings = Settings.from_environment()
        heartbeat = consumer.jobworker_heartbeat = _make_heartbeat(consumer, JobTask.runner, settings)
        watchdog = _make_watchdog(consumer, JobTask.runner, settings)
        Channel.announce_worker = staticmethod(heartbeat.send)
        heartbeat.send()
        beat = functools.partial(_send_in_loop if is_prefork(consumer.pool) else _send_heartbeat, heartbeat, watchdog)
        self.run_periodically(consumer, settings.heartbeat_interval, beat, "heartbeat")

    def cancel(self) -> None:
        """Stop the heartbeats and disarm the watchdog of the event loop."""
        Watchdog.disarm_loop_timeout()
        super().cancel()


def _make_heartbeat(consumer: Any, runner: AttemptRunner, settings: Settings) -> Heartbeat:
    client, tasks = runner.redis_connection.client, describe_tasks(consumer.app)
    announcement = make_announcement(consumer, runner, tasks, SystemClock())
    return Heartbeat(WorkerRegistry(client, settings.worker_lease), Claims(client), announcement, tasks)


def _make_watchdog(consumer: Any, runner: AttemptRunner, settings: Settings) -> Watchdog:
    timeout = settings.worker_lease * _MAX_IDLE_LEASES
    return Watchdog(
        consumer, runner.redis_connection.client, SystemClock(), timeout, runner.in_flight.outbox.stop_worker
    )


def _send_in_loop(heartbeat: Heartbeat, watchdog: Watchdog) -> None:
    watchdog.arm_loop_timeout()
    _send_heartbeat(heartbeat, watchdog)


def _send_heartbeat(heartbeat: Heartbeat, watchdog: Watchdog) -> None:
    heartbeat.send()
    with contextlib.suppress(redis.RedisError):
        watchdog.check_worker()
