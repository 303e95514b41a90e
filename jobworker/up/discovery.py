"""Finds the `jobworker up` that runs in a home, for what is started beside it: commands, shells, more workers."""

import dataclasses
import os

from jobworker.settings import Settings
from jobworker.up.lock import HomeLock
from jobworker.up.redis_server import EmbeddedRedis


def read_settings() -> Settings:
    """Return the settings of this process, for which they hold in everything that it starts.

    Unless `JOBWORKER_REDIS_URL` is set, Redis is that of the `jobworker up` that runs in this home. Nothing is started.
    """
    settings = Settings.from_environment()
    url = find_redis_url(settings)
    if url is None:
        return settings
    os.environ["JOBWORKER_REDIS_URL"] = url
    return dataclasses.replace(settings, redis_url=url)


def find_redis_url(settings: Settings) -> str | None:
    """The embedded Redis of this home if it is up; None if it is not, or a Redis was named."""
    if os.environ.get("JOBWORKER_REDIS_URL") or not HomeLock(settings.home).is_held():
        return None
    return EmbeddedRedis(settings.home).url
