"""Finds the `jobworker up` that runs in a home, for commands typed in another terminal."""

import os

from jobworker.settings import Settings
from jobworker.up.lock import HomeLock
from jobworker.up.redis_server import EmbeddedRedis


def redis_url(settings: Settings) -> str | None:
    """The embedded Redis of this home if it is up; None if it is not, or a Redis was named."""
    if os.environ.get("JOBWORKER_REDIS_URL") or not HomeLock(settings.home).is_held():
        return None
    return EmbeddedRedis(settings.home).url
