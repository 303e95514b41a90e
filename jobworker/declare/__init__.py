"""What users write jobs with: `@job`, the `Context` that a running job may ask for, and what it may raise."""

from jobworker.declare.classes import Job
from jobworker.declare.context import Context, Files, Progress, SavedFile, current, enter, leave
from jobworker.declare.control import Abort, JobCancelled, Retry, Snooze
from jobworker.declare.job import JobOptions, job

__all__ = [
    "Abort",
    "Context",
    "Files",
    "Job",
    "JobCancelled",
    "JobOptions",
    "Progress",
    "Retry",
    "SavedFile",
    "Snooze",
    "current",
    "enter",
    "job",
    "leave",
]
