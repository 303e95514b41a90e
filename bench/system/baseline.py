"""Baseline: bare Celery with its defaults, no result backend and no history.

Run by `celery -A bench.system.baseline worker`.
"""

import os
import time

import redis
from celery import Celery

app = Celery("bare", broker=os.environ["BARE_BROKER"], set_as_current=False)
app.conf.update(
    task_ignore_result=True, broker_connection_retry_on_startup=True, task_default_queue="bare", result_expires=None
)


@app.task(name="noop")
def noop(number: int = 0) -> None:
    """Do nothing."""


@app.task(name="stamp")
def stamp(sent_at: float) -> None:
    """Record the latency of this message."""
    _get_client().rpush("bare:latencies", time.time() - sent_at)


def _get_client() -> redis.Redis:
    global _connection
    if _connection is None:
        _connection = redis.Redis.from_url(os.environ["BARE_BROKER"])
    return _connection


_connection: redis.Redis | None = None
