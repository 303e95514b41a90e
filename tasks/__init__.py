"""The jobs. Every module in this package is imported by the workers; a function with `@job` in it is a job.

What is here are working examples on a small database of their own (`tasks/database.py`): keep what helps,
delete the rest. Jobs need nothing of JobWorker but `from jobworker import Context, job`.
"""

from jobworker import job as job  # So that `.delay()` of a plain Celery task here finds JobWorker's app, too.
