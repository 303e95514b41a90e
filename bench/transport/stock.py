"""Stock Celery as the peer of the transport: late acknowledgement, no events, no results. `celery -A …`.

`BENCH_BROKER` is its Redis; `BENCH_VISIBILITY` (s) makes it give back quickly what a dead worker held.
"""

import os
from typing import Any

from celery import Celery

from bench import diary

QUEUE = "celery"


def make(broker: str, visibility: str | None = None) -> Celery:
    """The app with the same tasks that JobWorker runs."""
    made = Celery("stock", broker=broker, set_as_current=False)
    made.conf.update(
        task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True, result_expires=None
    )
    if visibility:
        made.conf.broker_transport_options = {
            "visibility_timeout": float(visibility),
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
    made.task(_noop, name="noop")
    made.task(_stamp, name="stamp")
    made.task(_note, name="note", bind=True)
    return made


def _noop(number: int = 0) -> None:
    """Nothing."""


def _stamp(sent_at: float) -> None:
    diary.note_arrival(sent_at)


def _note(self: Any, number: int) -> None:
    diary.note_start(str(number), 1, self.request.hostname)


app = make(os.environ.get("BENCH_BROKER", ""), os.environ.get("BENCH_VISIBILITY"))
