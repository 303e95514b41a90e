"""Turns Celery's worker into ours: called by Celery's own signals, before the pool starts."""

import contextlib
import functools
import gc
import logging
import multiprocessing
import os
import secrets
from collections.abc import Iterator
from typing import Any

import redis
import structlog
from billiard import active_children
from celery import Celery, signals
from celery.app import trace
from celery.worker.consumer import consumer

from jobworker import loading
from jobworker.clock import SystemClock
from jobworker.domain.errors import ConfigurationError
from jobworker.settings import Settings
from jobworker.transport.broker.channel import Channel
from jobworker.transport.broker.in_flight import InFlight
from jobworker.transport.broker.prefetch import QueueWeights
from jobworker.transport.broker.report_outbox import ReportOutbox
from jobworker.transport.called_queues import DirectCallQueues
from jobworker.transport.client import check_server, connect_redis
from jobworker.worker import builtin
from jobworker.worker.attempt import direct_calls
from jobworker.worker.attempt.delivery import EXECUTION_HEADER
from jobworker.worker.attempt.runner import AttemptRunner
from jobworker.worker.celery.report_flusher import ReportFlushStep
from jobworker.worker.celery.task import JobTask
from jobworker.worker.control import process_tree
from jobworker.worker.control.stop_requests import StopRequestStep
from jobworker.worker.heartbeat import HeartbeatStep
from jobworker.worker.registration import make_worker_id
from jobworker.worker.shutdown import install_signal_handlers

logger = structlog.get_logger(__name__)


def install_into_celery(app: Celery, settings: Settings) -> None:
    """Connect the worker's life to ours, and let beat, too, refuse a Redis that would lose its data."""
    app.steps["consumer"].add(HeartbeatStep)
    app.steps["consumer"].add(ReportFlushStep)
    app.steps["consumer"].add(StopRequestStep)
    builtin.register_jobs()
    app.events.dispatcher_cls = "jobworker.worker.celery.events:NonBlockingEventDispatcher"
    _keep_values_out_of_logs()
    _track_direct_calls(settings)

    def begin(sender: str, conf: Any, **_: Any) -> None:
        with _exit_on_misconfiguration():
            _check_redis(settings)
            version = settings.code_version or loading.compute_source_digest(settings.tasks)
            shares = QueueWeights(settings.queue_weights)
        _warn_if_home_unusable(settings)
        clock = SystemClock()
        worker = make_worker_id(sender, secrets.token_hex(4))
        in_flight = InFlight(
            ReportOutbox(worker, clock, lambda: connect_redis(settings.redis_url), _exit_immediately), version, clock
        )
        JobTask.runner = AttemptRunner(settings, clock, worker, in_flight, version)
        if JobTask.runner.batched:
            # Only workers fetch; beat, Flower and remote control keep kombu's own transport.
            Channel.in_flight, Channel.queue_weights, Channel.clock = in_flight, shares, clock
            conf.broker_transport = "jobworker.transport.broker.channel:Transport"

    def ready(sender: Any, **_: Any) -> None:
        install_signal_handlers(sender)

    def begin_beat(**_: Any) -> None:
        with _exit_on_misconfiguration():
            _check_redis(settings)

    signals.celeryd_init.connect(begin, weak=False)
    signals.beat_init.connect(begin_beat, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutdown.connect(_kill_job_processes, weak=False)
    signals.worker_before_create_process.connect(_freeze_heap, weak=False)


def _freeze_heap(**_: Any) -> None:
    """Share what exists before the first fork with the processes of the pool, which saves a quarter of the memory.

    Their garbage collectors leave it alone. Once: what a parent at work has in hand is not there to stay.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _track_direct_calls(settings: Settings) -> None:
    """Give calls from Python ids that executions can have, and note the queues that they go to."""
    direct_calls.use_execution_ids(SystemClock())

    @functools.cache
    def called_queues() -> DirectCallQueues:
        return DirectCallQueues(connect_redis(settings.redis_url), SystemClock())

    def note_queue(headers: Any, routing_key: str, **_: Any) -> None:
        if direct_calls.is_direct_call(headers.get(EXECUTION_HEADER)):
            with contextlib.suppress(redis.RedisError):  # Then the call itself raises.
                called_queues().record(routing_key)

    signals.before_task_publish.connect(note_queue, weak=False)


def _warn_if_home_unusable(settings: Settings) -> None:
    """Jobs that save nothing run without a home."""
    try:
        settings.require_home()
    except ConfigurationError as error:
        logger.warning("home_unusable", why=error.detail, hint="jobs that save files or large results fail here")


def _keep_values_out_of_logs() -> None:
    """Leave results and parameters out of what Celery logs: they may be secret, and are with the execution."""
    trace.LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"
    consumer.dump_body = _describe_body
    for name in ("celery.pool", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.INFO)  # At DEBUG they show what they are given, and whole URLs.


def _describe_body(message: Any, _body: Any) -> str:
    return f"({len(message.body)} bytes)"


def _exit_immediately() -> None:
    """This worker was given up. Its jobs belong to somebody else now: children first, so that none outlives us."""
    for child in active_children():
        process_tree.kill_tree(child.pid)
    _kill_job_processes()
    os._exit(1)


def _kill_job_processes(**_: Any) -> None:
    """Kill what jobs have started by `multiprocessing` in this process (threads, solo): Python would wait for it."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            process_tree.kill_tree(child.pid)


@contextlib.contextmanager
def _exit_on_misconfiguration() -> Iterator[None]:
    """End the process with one line. Celery's signals would swallow an ordinary exception."""
    try:
        yield
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from None


def _check_redis(settings: Settings) -> None:
    """A Redis that would lose our data ends the worker before it takes work; one that is away is waited for."""
    with contextlib.suppress(redis.RedisError):
        check_server(connect_redis(settings.redis_url))
