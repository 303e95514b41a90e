"""Workers with the fault that JOB_SABOTAGE names, and a job that kills its worker."""

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


@shared_task(name="kill_worker")
def kill_worker() -> None:
    """Kill the whole worker (on a pool without processes)."""
    descriptor = os.open(os.environ["JOB_DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"kill_worker 1 start {os.getpid()}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)


def _stop_fetching(**_: Any) -> None:
    """Stop fetching messages, without any other change."""
    Channel.can_poll = lambda channel: bool(channel._in_poll)  # type: ignore[assignment]


def _block_event_loop(**_: Any) -> None:
    """Block the event loop for a long time."""
    get_event_loop().call_later(1, time.sleep, 600)


_received_numbers = itertools.count(1)


def _fail_connection(**_: Any) -> None:
    """Raise a connection error in Celery's consumer, which then reconnects, a few times under load."""
    if next(_received_numbers) in (1, 50, 51, 150):
        _get_event_loop().call_later(0.02, _raise_connection_error)


@functools.cache
def _get_event_loop() -> Any:
    # kombu forgets its event loop when the consumer starts over.
    return get_event_loop()


def _raise_connection_error() -> None:
    raise redis.ConnectionError("sabotage")


_FAULTS = {"deaf": _stop_fetching, "hang": _block_event_loop, "start over": _fail_connection}

if _fault := _FAULTS.get(os.environ.get("JOB_SABOTAGE", "")):
    signals.task_received.connect(_fault, weak=False)
