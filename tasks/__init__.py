"""The example jobs. Workers import every module in this package; a function with `@job` is a job.

The examples work on a small database of their own (`tasks/database.py`): keep the useful parts, delete the rest. Jobs
need only `from jobworker import Context, job`.
"""

from jobworker import job as job  # So that `.delay()` of a plain Celery task here uses JobWorker's app, too.
