"""An operator's Celery settings, by Celery's own names.

They override JobWorker's own Celery settings (jobworker/transport/celery_settings.py). The address of Redis, and every
setting that does not concern Celery alone, comes from JOBWORKER_* variables (see docs/settings.md) and is refused here.
"""

# Number of jobs that one worker runs at a time; also `--concurrency`. Default: the number of cores.
# worker_concurrency = 4

# A process that ran this many jobs is replaced, against slow memory leaks in the jobs' code.
worker_max_tasks_per_child = 10_000

# SIGTERM lets running jobs end; SIGQUIT gives them this many seconds.
worker_soft_shutdown_timeout = 30
