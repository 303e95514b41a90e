"""Private names of kombu, Celery and billiard that the transport and the worker rely on.

When one of these tests fails after an upgrade, read the new code of the name's owner, adapt the code that uses it,
and only then this list.
"""

import inspect
from importlib import metadata
from typing import Any

import pytest
from billiard import common
from billiard import pool as billiard_pool
from celery import Celery
from celery.app import trace
from celery.apps import worker as apps_worker
from celery.concurrency import asynpool, prefork
from celery.concurrency.asynpool import AsynPool
from celery.worker import WorkController, state
from celery.worker import request as celery_request
from celery.worker.consumer import Consumer
from kombu.asynchronous.hub import Hub
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.limits import TokenBucket

from jobworker.transport.scripts import common as scripts
from jobworker.worker.celery.request import JobRequest

#: (owner, method, its parameters without self, where it is used)
METHODS = [
    (kombu_redis.Channel, "_brpop_start", ["timeout"], "broker.channel asks for messages in its place"),
    (kombu_redis.Channel, "_brpop_read", ["options"], "broker.channel reads the answer in its place"),
    (kombu_redis.Channel, "_receive", [], "broker.channel survives a broken control connection"),
    (kombu_redis.Channel, "_create_client", ["asynchronous"], "broker.channel keeps one client"),
    (kombu_redis.Channel, "_put", ["queue", "message", "kwargs"], "broker.channel wakes a worker up"),
    (kombu_redis.Channel, "_basic_cancel", ["consumer_tag"], "broker.channel reads what is on its way"),
    (kombu_redis.Channel, "_flush_brpop_reauth", [], "broker.channel reads answers in kombu's place"),
    (kombu_redis.Channel, "basic_consume", ["queue", "args", "kwargs"], "broker.channel tells jobs from replies"),
    (kombu_redis.MultiChannelPoller, "on_poll_start", [], "broker.poller decides when to look"),
    (kombu_redis.Transport, "register_with_event_loop", ["connection", "loop"], "broker.channel joins the loop"),
    (kombu_redis.Transport, "on_readable", ["fileno"], "broker.poller registers sockets"),
    (virtual.Transport, "_deliver", ["message", "queue"], "broker.channel hands over"),
    (virtual.Channel, "basic_consume", ["queue", "no_ack", "callback", "consumer_tag", "kwargs"], "broker.channel"),
    (virtual.QoS, "can_consume", [], "broker.channel.QoS"),
    (virtual.QoS, "append", ["message", "delivery_tag"], "broker.channel.QoS"),
    (virtual.QoS, "ack", ["delivery_tag"], "broker.channel.QoS"),
    (virtual.QoS, "reject", ["delivery_tag", "requeue"], "broker.channel.QoS"),
    (
        celery_request.Request,
        "_announce_revoked",
        ["reason", "terminated", "signum", "expired"],
        "worker.celery.request",
    ),
    (celery_request.Request, "_announce_cancelled", ["emit_retry"], "worker.celery.request"),
    (celery_request.Request, "on_accepted", ["pid", "time_accepted"], "worker.celery.request"),
    (celery_request.Request, "on_timeout", ["soft", "timeout"], "worker.celery.request"),
    (celery_request.Request, "on_failure", ["exc_info", "send_failed_event", "return_ok"], "worker.celery.request"),
    (celery_request.Request, "acknowledge", [], "worker.celery.request"),
    (celery_request.Request, "reject", ["requeue"], "worker.celery.request"),
    (Consumer, "on_close", [], "worker.celery.consumer keeps delivered messages"),
    (Consumer, "on_decode_error", ["message", "exc"], "worker.celery.consumer"),
    (Consumer, "on_invalid_task", ["body", "message", "exc"], "worker.celery.consumer"),
    (Consumer, "on_unknown_message", ["body", "message"], "worker.celery.consumer"),
    (Consumer, "on_unknown_task", ["body", "message", "exc"], "worker.celery.consumer"),
    (Consumer, "stop", [], "worker.celery.consumer requeues rate-limited messages"),
    (Consumer, "shutdown", [], "worker.celery.consumer deregisters"),
    (Consumer, "cancel_active_requests", [], "worker.celery.consumer: not in threads"),
    (WorkController, "wait_for_soft_shutdown", [], "worker.shutdown waits for running attempts"),
    (
        Celery,
        "_task_from_fun",
        [
            *["fun", "name", "base", "bind", "pydantic", "pydantic_strict", "pydantic_context"],
            *["pydantic_dump_kwargs", "options"],
        ],
        "worker.celery.task gives every task our class",
    ),
    (Celery, "register_task", ["task", "options"], "worker.celery.task, likewise"),
    (AsynPool, "_event_process_exit", ["hub", "proc"], "worker.celery.pool checks again soon"),
    (AsynPool, "_join_exited_workers", ["shutdown"], "worker.celery.pool ends the children of an exited process"),
    (AsynPool, "_process_by_pid", ["pid"], "worker.control.time_limits finds the process of an attempt"),
    (AsynPool, "WorkerProcess", ["worker"], "worker.celery.pool passes the orphan reaper"),
    (AsynPool, "terminate_job", ["pid", "sig"], "worker.celery.pool kills processes that ignore signals"),
    (AsynPool, "register_with_event_loop", ["hub"], "worker.celery.pool, likewise"),
    (asynpool.Worker, "after_fork", [], "worker.celery.pool begins a session and takes SIGUSR1"),
    (asynpool.Worker, "_do_exit", ["pid", "exitcode", "exc"], "worker.celery.pool ends without a pause"),
    (prefork.TaskPool, "on_start", [], "worker.celery.pool keeps the limits to itself"),
    (prefork.TaskPool, "on_stop", [], "worker.celery.pool ends all child processes"),
    (prefork.TaskPool, "on_terminate", [], "worker.celery.pool, likewise"),
    (TokenBucket, "clear_pending", [], "worker.celery.consumer"),
    (Hub, "call_soon", ["callback", "args"], "worker.celery.report_flusher, from any thread"),
    (Hub, "call_later", ["delay", "callback", "args"], "worker.celery.report_flusher, broker.poller"),
]

#: (owner, attribute, where it is used)
ATTRIBUTES = [
    (kombu_redis.Channel, "_in_poll", "broker.channel says which connection waits for an answer"),
    (kombu_redis.Channel, "_brpop_sent_at", "kombu drops a connection whose answer is overdue"),
    (kombu_redis.Channel, "_in_listen", "broker.channel resubscribes"),
    (kombu_redis.Channel, "active_queues", "broker.channel"),
    (kombu_redis.Channel, "pool", "broker.channel"),
    (kombu_redis.MultiChannelPoller, "fds", "broker.poller"),
    (virtual.QoS, "restore_at_shutdown", "broker.channel.QoS puts nothing back by itself"),
    (state, "total_count", "worker.watchdog"),
    (state, "reserved_requests", "worker.watchdog"),
    (state, "should_stop", "broker.channel, worker.settling, worker.heartbeat"),
    (state, "should_terminate", "broker.channel, worker.settling, worker.heartbeat"),
    (state, "scheduled_requests", "worker.celery.consumer"),
    (celery_request.Request, "_eta_timer_entry", "worker.celery.consumer"),
    (apps_worker, "REMAP_SIGTERM", "worker.shutdown"),
    (common, "terminate_handler_fired", "worker.celery.tracer"),
    (state, "active_requests", "worker.control.stop_requests"),
    (celery_request.Request, "worker_pid", "worker.control.time_limits"),
]

#: Attributes that instances get: (class, a line of its source that sets the attribute, where it is used)
SOURCE_LINES = [
    (billiard_pool.ApplyResult, "self._worker_pid = None", "worker.celery.pool finds the job of a process"),
    (billiard_pool.Pool, "w.index = i", "worker.control.slots: the index of a process is that of its slot"),
    (
        billiard_pool.Pool,
        "getattr(worker, '_controlled_termination', False)",
        "worker.control.time_limits ends it on purpose",
    ),
    (billiard_pool.Pool, "self._cache = {}", "worker.celery.pool finds the job of a process"),
    (billiard_pool.Worker, "signal.signal(SIG_SOFT_TIMEOUT", "worker.celery.pool puts its own handler there"),
    (billiard_pool.Worker, "time.sleep(1)", "worker.celery.pool ends without this pause"),
]


def test_kombu_has_the_reviewed_minor_version() -> None:
    assert metadata.version("kombu").split(".")[:2] == ["5", "7"], "read the names below in the new version first"


@pytest.mark.parametrize(
    ("owner", "name", "parameters", "where"), METHODS, ids=lambda value: getattr(value, "__name__", None)
)
def test_private_method_keeps_its_parameters(owner: Any, name: str, parameters: list[str], where: str) -> None:
    method = getattr(owner, name, None)
    assert method is not None, f"{owner.__name__}.{name} is gone; used in {where}"
    actual = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
    assert actual == parameters, f"{owner.__name__}.{name} takes {actual} now; used in {where}"


@pytest.mark.parametrize(("owner", "name", "where"), ATTRIBUTES, ids=lambda value: getattr(value, "__name__", None))
def test_private_attribute_exists(owner: Any, name: str, where: str) -> None:
    assert hasattr(owner, name), f"{owner.__name__}.{name} is gone; used in {where}"


@pytest.mark.parametrize(("owner", "line", "where"), SOURCE_LINES, ids=lambda value: getattr(value, "__name__", None))
def test_source_sets_private_instance_attribute(owner: Any, line: str, where: str) -> None:
    assert line in inspect.getsource(owner), f"{owner.__name__} does not say {line} any more; used in {where}"


def test_kombu_calls_the_overridden_methods() -> None:
    for caller, called in (
        (kombu_redis.MultiChannelPoller._register_BRPOP, "channel._brpop_start()"),
        (kombu_redis.MultiChannelPoller.on_poll_start, "channel.qos.can_consume()"),
        (kombu_redis.MultiChannelPoller.on_readable, "chan.handlers[type]()"),
        (kombu_redis.Channel.__init__, "'BRPOP': self._brpop_read, 'LISTEN': self._receive"),
        (kombu_redis.Transport.__init__, "self.cycle = MultiChannelPoller()"),
        (kombu_redis.Transport.register_with_event_loop, "loop.on_tick.add(on_poll_start)"),
    ):
        assert called in inspect.getsource(caller), f"{caller.__qualname__} does not say {called} any more"


def test_queue_list_names_match_kombu() -> None:
    assert kombu_redis.Channel.sep == scripts.SEPARATOR
    assert tuple(kombu_redis.PRIORITY_STEPS) == scripts.PRIORITY_STEPS


def test_celery_request_shortcuts_are_disabled() -> None:
    """`create_request_cls` makes a subclass per task with methods that would bypass the reports."""
    source = inspect.getsource(celery_request.create_request_cls)
    defined = {line.split("def ")[1].split("(")[0] for line in source.splitlines() if line.startswith("        def ")}
    assert defined == {"execute_using_pool", "on_success"}

    class Shortcut(JobRequest):
        def execute_using_pool(self, pool: Any, **_: Any) -> Any:
            raise AssertionError

        def on_success(self, answer: Any, **_: Any) -> None:
            raise AssertionError

    assert Shortcut.execute_using_pool is JobRequest.execute_using_pool
    assert Shortcut.on_success is JobRequest.on_success


def test_celery_tracers_return_three_values() -> None:
    for tracer in (trace.fast_trace_task, trace.trace_task_ret):
        assert "return (1, R, T) if I else (0, Rstr, T)" in inspect.getsource(tracer)
        names = list(inspect.signature(tracer).parameters)
        assert names[1:6] == ["uuid", "request", "body", "content_type", "content_encoding"]


def test_celery_soft_shutdown_calls_overridden_wait() -> None:
    source = inspect.getsource(apps_worker.on_cold_shutdown)
    assert "worker.wait_for_soft_shutdown()" in source
    assert "worker.consumer.cancel_active_requests()" in source
    assert "signals.worker_ready.send(sender=consumer)" in inspect.getsource(apps_worker.Worker.on_consumer_ready)
