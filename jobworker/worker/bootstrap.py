"""Setup of JobWorker inside Celery's worker, called by Celery's signals before the pool starts."""

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
from jobworker.transport.client import check_server, connect_redis
from jobworker.transport.direct_call_queues import DirectCallQueues
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
    """Install JobWorker's steps and signal handlers; beat, too, refuses a Redis that could lose data."""
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
            # Only workers fetch messages; beat, Flower and remote control keep kombu's own transport.
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
    """Share objects that exist before the first fork with the pool's processes: saves a quarter of the memory.

    The garbage collectors of these processes skip frozen objects. The heap is frozen only once, because the objects
    that the parent process uses later are short-lived.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _track_direct_calls(settings: Settings) -> None:
    """Give direct calls ids that executions can have, and record the queues that they use."""
    direct_calls.use_execution_ids(SystemClock())

    @functools.cache
    def called_queues() -> DirectCallQueues:
        return DirectCallQueues(connect_redis(settings.redis_url), SystemClock())

    def note_queue(headers: Any, routing_key: str, **_: Any) -> None:
        if direct_calls.is_direct_call(headers.get(EXECUTION_HEADER)):
            with contextlib.suppress(redis.RedisError):  # The call itself raises then.
                called_queues().record(routing_key)

    signals.before_task_publish.connect(note_queue, weak=False)


def _warn_if_home_unusable(settings: Settings) -> None:
    """Log a warning if the home folder cannot be used; jobs that save nothing run without it."""
    try:
        settings.require_home()
    except ConfigurationError as error:
        logger.warning("home_unusable", why=error.detail, hint="jobs that save files or large results fail here")


def _keep_values_out_of_logs() -> None:
    """Keep results and parameters out of Celery's logs: they may be secret, and are stored with the execution."""
    trace.LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"
    consumer.dump_body = _describe_body
    for name in ("celery.pool", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.INFO)  # At DEBUG these loggers log arguments and whole URLs.


def _describe_body(message: Any, _body: Any) -> str:
    return f"({len(message.body)} bytes)"


def _exit_immediately() -> None:
    """End this worker, which was declared dead and whose jobs run elsewhere.

    Child processes are killed first, so that none survives.
    """
    for child in active_children():
        process_tree.kill_tree(child.pid)
    _kill_job_processes()
    os._exit(1)


def _kill_job_processes(**_: Any) -> None:
    """Kill child processes of `multiprocessing` in this process (threads, solo), because Python would wait for them."""
    for child in multiprocessing.active_children():
        if child.pid is not None:
            process_tree.kill_tree(child.pid)


@contextlib.contextmanager
def _exit_on_misconfiguration() -> Iterator[None]:
    """Exit with one line on a configuration error, because Celery's signals would swallow an ordinary exception."""
    try:
        yield
    except ConfigurationError as error:
        raise SystemExit(f"error: {error}") from None


def _check_redis(settings: Settings) -> None:
    """Exit before the worker fetches messages if Redis could lose data; an unreachable Redis is waited for later."""
    with contextlib.suppress(redis.RedisError):
        check_server(connect_redis(settings.redis_url))
