"""Jobs under concurrency and rate limits."""

import time

from jobworker import job
from tests.jobs import log_activity


@job(concurrency={"limit": 2, "key": "{tenant}", "total": 4})
def shared(tenant: str, seconds: float = 0.1) -> str:
    """Use a resource of a tenant that at most two executions may use at once."""
    log_activity("start")
    time.sleep(seconds)
    log_activity("end")
    return tenant


@job(rate_limit={"limit": 5, "per": 1, "key": "{tenant}"})
def paced(tenant: str) -> str:
    """Start under a rate limit per tenant."""
    log_activity("start")
    return tenant
