"""What this worker says of itself when it comes up."""

import os
import socket
from typing import Any

from jobworker.clock import Clock
from jobworker.domain.zones import DATA_VERSION
from jobworker.transport import catalogue
from jobworker.transport.registry import Announcement
from jobworker.worker import pool
from jobworker.worker.runner import Runner

#: Modules that did not import and are announced, and the length of each text (characters).
_MOST_BROKEN, _LONGEST_BROKEN = 20, 250


def worker_id(hostname: str, random: str) -> str:
    """`celery@host` plus pid and chance: a restarted worker is another one."""
    return f"{hostname}:{os.getpid()}:{random}"


def announcement(consumer: Any, runner: Runner, offered: list[dict[str, Any]], clock: Clock) -> Announcement:
    """The announcement of the worker that `consumer` belongs to."""
    return Announcement(
        worker=runner.worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        pool=pool.name(consumer.pool),
        concurrency=consumer.pool.limit or 0,
        queues=tuple(sorted(consumer.app.amqp.queues.consume_from)),
        tasks=tuple(task["name"] for task in offered),
        catalogue=catalogue.digest(offered),
        code_version=runner.code_version,
        started_at=clock.now(),
        zone_data=DATA_VERSION,
        broken=tuple(f"{each.module}: {each}"[:_LONGEST_BROKEN] for each in consumer.app.broken_modules[:_MOST_BROKEN]),
        package=runner.settings.tasks,
    )
