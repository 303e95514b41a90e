"""Why work that is due cannot run now. The relay asks before it publishes, the API when it shows an execution."""

from collections.abc import Collection, Iterable
from typing import Protocol


class LiveWorker(Protocol):
    """What the gates want to know of a worker whose heartbeat is recent."""

    @property
    def tasks(self) -> Collection[str]:
        """The tasks that it can run."""
        ...

    @property
    def queues(self) -> Collection[str]:
        """The queues that it consumes."""
        ...


def blocked(task: str, queue: str, workers: Iterable[LiveWorker]) -> str | None:
    """The reason why no live worker would take this task from this queue; None: one would."""
    serving_queue = serving_task = False
    for worker in workers:
        has_task, has_queue = task in worker.tasks, queue in worker.queues
        if has_task and has_queue:
            return None
        serving_task = serving_task or has_task
        serving_queue = serving_queue or has_queue
    if not serving_task:
        return f"no live worker offers task {task}"
    if not serving_queue:
        return f"no live worker consumes queue {queue}"
    return f"no live worker that consumes queue {queue} offers task {task}"


def runnable(queue: str, workers: Iterable[LiveWorker]) -> set[str]:
    """The tasks that are not `blocked` on this queue."""
    return {task for worker in workers if queue in worker.queues for task in worker.tasks}
