"""Baseline of the transport: stock Celery with late acknowledgement, no events, no results, run by `celery -A …`.

`BENCH_BROKER` is the URL of its Redis; a short `BENCH_VISIBILITY` (s) returns the messages of a dead worker quickly.
"""

import os
from typing import Any

from celery import Celery

from bench import probe

QUEUE = "celery"


def make_app(broker: str, visibility: str | None = None) -> Celery:
    """Return the app with the counterparts of JobWorker's tasks."""
    celery_app = Celery("stock", broker=broker, set_as_current=False)
    celery_app.conf.update(
        task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True, result_expires=None
    )
    if visibility:
        celery_app.conf.broker_transport_options = {
            "visibility_timeout": float(visibility),
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    celery_app.task(_noop, name="noop")
    celery_app.task(_stamp, name="stamp")
    celery_app.task(_note, name="note", bind=True)
    return celery_app


def _noop(number: int = 0) -> None:
    """Do nothing."""


def _stamp(sent_at: float) -> None:
    probe.record_arrival(sent_at)


def _note(self: Any, number: int) -> None:
    probe.record_start(str(number), 1, self.request.hostname)


app = make_app(os.environ.get("BENCH_BROKER", ""), os.environ.get("BENCH_VISIBILITY"))
