"""A job that returns its scheduled time."""

import time

from jobworker import Context, job
from tests.jobs import log_activity


@job
def nominal(context: Context, seconds: float = 0.2) -> str:
    """Run for a while, and return the scheduled time."""
    log_activity("start")
    time.sleep(seconds)
    log_activity("end")
    assert context.scheduled_for is not None
    return context.scheduled_for.isoformat()
