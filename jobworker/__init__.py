"""JobWorker: submit work over HTTP, keep its history forever, and let Celery workers run it.

A job module begins with `from jobworker import Context, job`, a module of schedules with `from jobworker import
schedule`.
"""

from typing import TYPE_CHECKING, Any

from jobworker.domain.schedules.time_zones import use_shipped_data

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

# In the package itself, because every process and program that uses JobWorker imports the package first.
use_shipped_data()


def _offer_app() -> None:
    """Make JobWorker's app the default of `.delay()` where no other app exists: in a shell, a script, or a thread."""
    import importlib

    from celery import _state
    from celery.local import Proxy

    if _state.default_app is None:
        _state.set_default_app(Proxy(lambda: importlib.import_module("jobworker.celery").app))


def __getattr__(name: str) -> Any:
    # Imports Celery only in code that defines jobs; the API and the command line do without.
    if name in __all__:
        from jobworker import declare

        if name in ("job", "Job"):
            _offer_app()
        return getattr(declare, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
