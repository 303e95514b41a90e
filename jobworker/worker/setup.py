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
from jobworker.domain.errors import Misconfigured
from jobworker.settings import Settings
from jobworker.transport.broker.channel import Channel
from jobworker.transport.broker.fetching import Shares
from jobworker.transport.called_queues import CalledQueues
from jobworker.transport.client import check, connect
from jobworker.transport.mailbox import Mailbox
from jobworker.worker import builtin, calls, processes
from jobworker.worker.announce import worker_id
from jobworker.worker.delivery import HEADER
from jobworker.worker.heartbeat import HeartbeatStep
from jobworker.worker.orders import OrdersStep
from jobworker.worker.runner import Runner
from jobworker.worker.settling import SettleStep
from jobworker.worker.shutdown import take_over_signals
from jobworker.worker.task import JobTask

logger = structlog.get_logger(__name__)


def install(app: Celery, settings: Settings) -> None:
    """Connect the worker's life to ours, and let beat, too, refuse a Redis that would lose its data."""
    app.steps["consumer"].add(HeartbeatStep)
    app.steps["consumer"].add(SettleStep)
    app.steps["consumer"].add(OrdersStep)
    builtin.offer()
    app.events.dispatcher_cls = "jobworker.worker.events:Dispatcher"
    _keep_values_out_of_logs()
    _let_calls_be_found(settings)

    def begin(sender: str, conf: Any, **_: Any) -> None:
        with _ending_plainly():
            _refuse_bad_redis(settings)
            version = settings.code_version or loading.source_digest(settings.tasks)
            shares = Shares(settings.queue_weights)
        _warn_of_home(settings)
        clock = SystemClock()
        worker = worker_id(sender, secrets.token_hex(4))
        mailbox = Mailbox(worker, version, clock, lambda: connect(settings.redis_url), _end_now)
        JobTask.runner = Runner(settings, clock, worker, mailbox, version)
        if JobTask.runner.batched:
            # Only workers fetch; beat, Flower and remote control keep kombu's own transport.
            Channel.mailbox, Channel.queue_weights, Channel.clock = mailbox, shares, clock
            conf.broker_transport = "jobworker.transport.broker.channel:Transport"

    def ready(sender: Any, **_: Any) -> None:
        take_over_signals(sender)

    def begin_beat(**_: Any) -> None:
        with _ending_plainly():
            _refuse_bad_redis(settings)

    signals.celeryd_init.connect(begin, weak=False)
    signals.beat_init.connect(begin_beat, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutdown.connect(_end_processes_of_jobs, weak=False)
    signals.worker_before_create_process.connect(_freeze, weak=False)


def _freeze(**_: Any) -> None:
    """Share what exists before the first fork with the processes of the pool, which saves a quarter of the memory.

    Their garbage collectors leave it alone. Once: what a parent at work has in hand is not there to stay.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _let_calls_be_found(settings: Settings) -> None:
    """Give calls from Python ids that executions can have, and note the queues that they go to."""
    calls.name_by_executions(SystemClock())

    @functools.cache
    def called_queues() -> CalledQueues:
        return CalledQueues(connect(settings.redis_url), SystemClock())

    def note_queue(headers: Any, routing_key: str, **_: Any) -> None:
        if calls.is_call(headers.get(HEADER)):
            with contextlib.suppress(redis.RedisError):  # Then the call itself raises.
                called_queues().record(routing_key)

    signals.before_task_publish.connect(note_queue, weak=False)


def _warn_of_home(settings: Settings) -> None:
    """Jobs that save nothing run without a home."""
    try:
        settings.require_home()
    except Misconfigured as error:
        logger.warning("home_unusable", why=error.detail, hint="jobs that save files or large results fail here")


def _keep_values_out_of_logs() -> None:
    """Leave results and parameters out of what Celery logs: they may be secret, and are with the execution."""
    trace.LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"
    consumer.dump_body = _describe_body
    for name in ("celery.pool", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.INFO)  # At DEBUG they show what they are given, and whole URLs.


def _describe_body(message: Any, _body: Any) -> str:
    return f"({len(message.body)} bytes)"


def _end_now() -> None:
    """This worker was given up. Its jobs belong to somebody else now: children first, so that none outlives us."""
    for child in active_children():
        processes.kill(child.pid)
    _end_processes_of_jobs()
    os._exit(1)


def _end_processes_of_jobs(**_: Any) -> None:
    """Kill what jobs have started by `multiprocessing` in this process (threads, solo): Python would wait for it."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            processes.kill(child.pid)


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
