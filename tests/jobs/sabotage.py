"""Workers that fail in the way that JOB_SABOTAGE names, and a job that kills its worker."""

import os
import signal
import time
from typing import Any

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
    Channel.wants_to_ask = lambda channel: bool(channel._in_poll)  # type: ignore[assignment]


def _hang(**_: Any) -> None:
    """Let the event loop do nothing for a long time."""
    get_event_loop().call_later(1, time.sleep, 600)


_SABOTAGE = {"deaf": _go_deaf, "hang": _hang}

if _sabotage := _SABOTAGE.get(os.environ.get("JOB_SABOTAGE", "")):
    signals.task_received.connect(_sabotage, weak=False)
