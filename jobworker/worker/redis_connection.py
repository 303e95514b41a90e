"""The Redis connection of a process; child processes of a pool open their own after the fork."""

import os
import threading

import redis

from jobworker.settings import Settings
from jobworker.transport.client import connect_redis


class RedisConnection:
    """The Redis client of the present process, opened at first use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pid = 0
        self._lock = threading.Lock()

    @property
    def client(self) -> redis.Redis:
        """The Redis client of this process."""
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    self._client = connect_redis(self._settings.redis_url)
                    self._pid = os.getpid()
        return self._client
