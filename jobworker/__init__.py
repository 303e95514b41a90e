"""JobWorker: submit work over HTTP, know for ever what happened to it, let Celery workers run it.

A job module begins with `from jobworker import Context, job`, one of schedules with `from jobworker import schedule`.
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

# Here, since every process and every program that uses JobWorker imports this package before anything inside it.
use_shipped_data()


def _offer_app() -> None:
    """Let `.delay()` find our app where no app was made: in a shell, in a script, in another thread of theirs."""
    import importlib

    from celery import _state
    from celery.local import Proxy

    if _state.default_app is None:
        _state.set_default_app(Proxy(lambda: importlib.import_module("jobworker.celery").app))


def __getattr__(name: str) -> Any:
    # Only who writes jobs pays for importing Celery; the API and the command line do without.
    if name in __all__:
        from jobworker import declare

        if name in ("job", "Job"):
            _offer_app()
        return getattr(declare, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
