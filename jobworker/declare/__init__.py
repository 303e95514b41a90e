"""Public API for jobs and schedules in code: `@job`, `Job`, `Context`, the exceptions of a job, `schedule(...)`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobworker.declare.classes import Job
    from jobworker.declare.context import (
        Context,
        Files,
        ProgressReporter,
        SavedFile,
        current,
        reset_current_context,
        set_current_context,
    )
    from jobworker.declare.declarations import calendar, schedule
    from jobworker.declare.exceptions import Abort, JobCancelled, Retry, Snooze
    from jobworker.declare.functions import JobOptions, job
    from jobworker.declare.rules import business_day, cron, daily, every, monthly, once, rrule, weekly

__all__ = [
    "Abort",
    "Context",
    "Files",
    "Job",
    "JobCancelled",
    "JobOptions",
    "ProgressReporter",
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
    "reset_current_context",
    "rrule",
    "schedule",
    "set_current_context",
    "weekly",
]

#: Modules of the public names. Each name is imported on first access, because workers need no schedules and code that
#: reads only schedules needs no Celery.
_MODULES = {
    "classes": ("Job",),
    "context": (
        "Context",
        "Files",
        "ProgressReporter",
        "SavedFile",
        "current",
        "reset_current_context",
        "set_current_context",
    ),
    "exceptions": ("Abort", "JobCancelled", "Retry", "Snooze"),
    "functions": ("JobOptions", "job"),
    "rules": ("business_day", "cron", "daily", "every", "monthly", "once", "rrule", "weekly"),
    "declarations": ("calendar", "schedule"),
}


def __getattr__(name: str) -> Any:
    for home, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"jobworker.declare.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
