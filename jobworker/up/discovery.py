"""Discovery of the `jobworker up` that runs in a home, for commands, shells and more workers started beside it."""

import dataclasses
import os

from jobworker.settings import Settings
from jobworker.up.lock import HomeLock
from jobworker.up.redis_server import EmbeddedRedis


def read_settings() -> Settings:
    """Return the settings of this process, which its child processes use, too.

    Unless `JOBWORKER_REDIS_URL` is set, Redis is that of the `jobworker up` that runs in this home. No process is
    started.
    """
    settings = Settings.from_environment()
    url = find_redis_url(settings)
    if url is None:
        return settings
    os.environ["JOBWORKER_REDIS_URL"] = url
    return dataclasses.replace(settings, redis_url=url)


def find_redis_url(settings: Settings) -> str | None:
    """Return the URL of this home's embedded Redis; None if it does not run, or if `JOBWORKER_REDIS_URL` is set."""
    if os.environ.get("JOBWORKER_REDIS_URL") or not HomeLock(settings.home).is_held():
        return None
    return EmbeddedRedis(settings.home).url
