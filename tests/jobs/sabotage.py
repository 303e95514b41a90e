"""Workers that fail in the way that JOB_SABOTAGE names, and a job that kills its worker."""

import functools
import itertools
import os
import signal
import time
from typing import Any

import redis
from celery import shared_task, signals
from kombu.asynchronous import get_event_loop

from jobworker.transport.broker.channel import Channel


@shared_task(name="kills_worker")
def kills_worker() -> None:
    """Take the whole worker down (on a pool without processes)."""
    descriptor = os.open(os.environ["JOB_DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"kills_worker 1 start {os.getpid()}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def _go_deaf(**_: Any) -> None:
    """Fetch nothing more, and do everything else as ever."""
    Channel.can_poll = lambda channel: bool(channel._in_poll)  # type: ignore[assignment]


def _hang(**_: Any) -> None:
    """Let the event loop do nothing for a long time."""
    get_event_loop().call_later(1, time.sleep, 600)


_starting_over = itertools.count(1)


def _start_over(**_: Any) -> None:
    """Let Celery's consumer meet an error that makes it connect anew, a few times under load."""
    if next(_starting_over) in (1, 50, 51, 150):
        _event_loop().call_later(0.02, _fail)


@functools.cache
def _event_loop() -> Any:
    # kombu forgets which one it is when the consumer starts over.
    return get_event_loop()


def _fail() -> None:
    raise redis.ConnectionError("sabotage")


_SABOTAGE = {"deaf": _go_deaf, "hang": _hang, "start over": _start_over}

if _sabotage := _SABOTAGE.get(os.environ.get("JOB_SABOTAGE", "")):
    signals.task_received.connect(_sabotage, weak=False)
