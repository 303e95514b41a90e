"""What an operator edits for Celery, by Celery's own setting names.

It is laid over what JobWorker itself needs (jobworker/transport/celery_settings.py). Where Redis is, and
everything else that is not Celery's alone, comes from JOBWORKER_* variables (see docs/settings.md) and is refused here.
"""

# How many jobs one worker runs at a time; also `--concurrency`. Default: the number of cores.
# worker_concurrency = 4

# A process that ran this many jobs is replaced by a fresh one, against slow leaks in the jobs' code.
worker_max_tasks_per_child = 10_000

# SIGTERM lets running jobs end; SIGQUIT gives them this many seconds.
worker_soft_shutdown_timeout = 30
