"""The announcement that a worker sends when it starts."""

import os
import socket
from typing import Any

from jobworker.clock import Clock
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.transport import task_catalog
from jobworker.transport.worker_registry import WorkerAnnouncement
from jobworker.worker.attempt.runner import AttemptRunner
from jobworker.worker.celery import pool

#: Maximum number of announced modules that could not be imported, and maximum length of each text (characters).
_MAX_BROKEN_MODULES, _MAX_BROKEN_LENGTH = 20, 250


def make_worker_id(hostname: str, suffix: str) -> str:
    """Return the worker's id: `celery@host`, pid and a random suffix, so that a restarted worker gets another id."""
    return f"{hostname}:{os.getpid()}:{suffix}"


def make_announcement(
    consumer: Any, runner: AttemptRunner, tasks: list[dict[str, Any]], clock: Clock
) -> WorkerAnnouncement:
    """Return the announcement of the worker that `consumer` belongs to."""
    return WorkerAnnouncement(
        worker=runner.worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        pool=pool.get_name(consumer.pool),
        concurrency=consumer.pool.limit or 0,
        queues=tuple(sorted(consumer.app.amqp.queues.consume_from)),
        tasks=tuple(task["name"] for task in tasks),
        catalogue=task_catalog.compute_digest(tasks),
        code_version=runner.code_version,
        started_at=clock.now(),
        zone_data=DATA_VERSION,
        broken=tuple(
            f"{broken_module.module}: {broken_module}"[:_MAX_BROKEN_LENGTH]
            for broken_module in consumer.app.broken_modules[:_MAX_BROKEN_MODULES]
        ),
        package=runner.settings.tasks,
    )
