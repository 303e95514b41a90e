"""A job that cares for the time that it stands for."""

import time

from jobworker import Context, job
from tests.jobs import log_activity


@job
def nominal(context: Context, seconds: float = 0.2) -> str:
    """Take a while, and say for when."""
    log_activity("start")
    time.sleep(seconds)
    log_activity("end")
    assert context.scheduled_for is not None
    return context.scheduled_for.isoformat()
