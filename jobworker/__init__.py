"""JobWorker: submit work over HTTP, know for ever what happened to it, let Celery workers run it.

A job module begins with `from jobworker import Context, job`, one of schedules with `from jobworker import schedule`.
"""

from typing import TYPE_CHECKING, Any

from jobworker.domain.zones import use_shipped_data

if TYPE_CHECKING:
    from jobworker.declare import (
        Abort,
        Context,
        Job,
        JobCancelled,
        Retry,
        SavedFile,
        Snooze,
        business_day,
        calendar,
        cron,
        current,
        daily,
        every,
        job,
        monthly,
        once,
        rrule,
        schedule,
        weekly,
    )

__all__ = [
    "Abort",
    "Context",
    "Job",
    "JobCancelled",
    "Retry",
    "SavedFile",
    "Snooze",
    "business_day",
    "calendar",
    "cron",
    "current",
    "daily",
    "every",
    "job",
    "monthly",
    "once",
    "rrule",
    "schedule",
    "weekly",
]

# Here, since every process and every program that uses JobWorker imports this package before anything inside it.
use_shipped_data()


def __getattr__(name: str) -> Any:
    # Only who writes jobs pays for importing Celery; the API and the command line do without.
    if name in __all__:
        from jobworker import declare

        return getattr(declare, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
