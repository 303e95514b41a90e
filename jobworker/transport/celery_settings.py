"""Celery settings that JobWorker requires, and the overrides that `celeryconfig.py` may contain."""

from collections.abc import Mapping
from typing import Any

from kombu import Queue

from jobworker.domain.errors import ConfigurationError
from jobworker.domain.jobs.definition import BUILTIN_QUEUES, DEFAULT_QUEUE
from jobworker.settings import Settings

#: Timeout of a Redis connection (s); kombu alone waits forever.
_SOCKET_TIMEOUT_SECONDS = 5

#: Interval between beat's ticks (s), and lifetime of its lock without a tick (s).
_BEAT_INTERVAL_SECONDS = 1
_BEAT_LOCK_SECONDS = 15

#: Settings that processes without Celery need, too, or that are fixed: the variable that sets each, or the reason.
_FIXED_SETTINGS = {
    "broker_url": "set JOBWORKER_REDIS_URL",
    "redbeat_redis_url": "set JOBWORKER_REDIS_URL",
    "timezone": "times are UTC; a schedule has a zone of its own",
    "enable_utc": "times are UTC; a schedule has a zone of its own",
    "accept_content": "messages are JSON",
    "task_serializer": "messages are JSON",
    "beat_scheduler": "schedules are JobWorker's",
    "worker_consumer": "set JOBWORKER_TRANSPORT",
}


def build_celery_settings(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration for this system, by Celery's setting names."""
    return {
        "broker_url": settings.redis_url,
        # The history is in SQL; a result backend would cost a third of a worker's speed.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # A worker keeps a message in flight until the job ends, so that its prefetch counts running jobs.
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "task_default_queue": DEFAULT_QUEUE,
        "task_queues": [Queue(name, routing_key=name) for name in BUILTIN_QUEUES],
        "task_create_missing_queues": True,
        "accept_content": ["json"],
        "task_serializer": "json",
        "timezone": "UTC",
        "enable_utc": True,
        "worker_pool": "jobworker.worker.celery.pool:TaskPool",
        "worker_consumer": "jobworker.worker.celery.consumer:Consumer",
        "worker_prefetch_multiplier": 1,
        # Without remote control a worker that loses Redis while busy never consumes again.
        "worker_enable_remote_control": True,
        "worker_send_task_events": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A full Redis must not end the worker.
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            "socket_timeout": _SOCKET_TIMEOUT_SECONDS,
            "socket_connect_timeout": _SOCKET_TIMEOUT_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        "result_expires": None,
        "beat_scheduler": "jobworker.transport.beat:Scheduler",
        "beat_max_loop_interval": _BEAT_INTERVAL_SECONDS,
        "redbeat_redis_options": {
            "socket_timeout": _SOCKET_TIMEOUT_SECONDS,
            "socket_connect_timeout": _SOCKET_TIMEOUT_SECONDS,
        },
        "redbeat_lock_timeout": _BEAT_LOCK_SECONDS,
    }


def merge_settings(defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default settings with an operator's overrides; mappings are merged key by key.

    Raises `ConfigurationError` for an override of a fixed setting.
    """
    merged = dict(defaults)
    for name in sorted(_FIXED_SETTINGS.keys() & overrides.keys()):
        raise ConfigurationError(f"celeryconfig.py: {name} cannot be set there; {_FIXED_SETTINGS[name]}")
    for name in defaults.keys() & overrides.keys():
        are_mappings = isinstance(defaults[name], Mapping) and isinstance(overrides[name], Mapping)
        merged[name] = {**defaults[name], **overrides[name]} if are_mappings else overrides[name]
    return merged
