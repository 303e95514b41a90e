"""Turns Celery's worker into ours: called by Celery's own signals, before the pool starts."""

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

import redis
from celery import Celery, signals

from jobworker import loading
from jobworker.clock import SystemClock
from jobworker.domain.errors import Misconfigured
from jobworker.settings import Settings
from jobworker.transport.client import check, connect
from jobworker.worker.announce import worker_id
from jobworker.worker.heartbeat import HeartbeatStep
from jobworker.worker.runner import Runner
from jobworker.worker.task import JobTask


def install(app: Celery, settings: Settings) -> None:
    """Connect the worker's life to ours, and let beat, too, refuse a Redis that would lose its data."""
    app.steps["consumer"].add(HeartbeatStep)

    def begin(sender: str, conf: Any, **_: Any) -> None:
        # Only workers fetch; beat, Flower and remote control keep kombu's own transport.
        conf.broker_transport = "jobworker.transport.broker:Transport"
        with _ending_plainly():
            _refuse_bad_redis(settings)
            version = settings.code_version or loading.source_digest(settings.tasks)
        worker = worker_id(sender, secrets.token_hex(4))
        JobTask.runner = Runner(settings, SystemClock(), worker, version)

    def end(sender: Any, **_: Any) -> None:
        heartbeat = getattr(sender.consumer, "jobworker_heartbeat", None)
        if heartbeat:
            heartbeat.leave()

    def begin_beat(**_: Any) -> None:
        with _ending_plainly():
            _refuse_bad_redis(settings)

    signals.celeryd_init.connect(begin, weak=False)
    signals.beat_init.connect(begin_beat, weak=False)
    signals.worker_shutdown.connect(end, weak=False)


@contextlib.contextmanager
def _ending_plainly() -> Iterator[None]:
    """End the process with one line. Celery's signals would swallow an ordinary exception."""
    try:
        yield
    except Misconfigured as error:
        raise SystemExit(f"error: {error}") from None


def _refuse_bad_redis(settings: Settings) -> None:
    """A Redis that would lose our data ends the worker before it takes work; one that is away is waited for."""
    with contextlib.suppress(redis.RedisError):
        check(connect(settings.redis_url))
