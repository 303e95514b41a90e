"""A pool of which nobody knows whether a job in it may wait for a process; and which keeps no limits."""

from celery.concurrency import thread


class TaskPool(thread.TaskPool):
    """Threads by another name."""
