"""JobWorker: submit work over HTTP, know for ever what happened to it, let Celery workers run it.

What a job module imports: `from jobworker import Context, job`.
"""

from jobworker.declare import Context, SavedFile, current, job

__all__ = ["Context", "SavedFile", "current", "job"]
