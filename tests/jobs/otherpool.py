"""A pool of an unknown kind: it enforces no limits, and the worker cannot know whether jobs may wait for a process."""

from celery.concurrency import thread


class OtherTaskPool(thread.TaskPool):
    """A pool of threads with another module name."""
