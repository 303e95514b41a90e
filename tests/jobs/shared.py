"""Jobs of which not all may run at once, or as often as they like."""

import time

from jobworker import job
from tests.jobs import log_activity


@job(concurrency={"limit": 2, "key": "{tenant}", "total": 4})
def shared(tenant: str, seconds: float = 0.1) -> str:
    """Use something of a tenant's that only two may use at once."""
    log_activity("start")
    time.sleep(seconds)
    log_activity("end")
    return tenant


@job(rate_limit={"limit": 5, "per": 1, "key": "{tenant}"})
def paced(tenant: str) -> str:
    """Ask somebody who minds being asked too often."""
    log_activity("start")
    return tenant
