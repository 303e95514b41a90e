"""A process's line to Redis, and how it insists.

A worker has several processes: the parent, which receives and supervises, and the children that run
jobs. Each opens its own connections after the fork.
"""

import os
import threading
from collections.abc import Callable
from typing import TypeVar

import redis
import structlog
from celery.exceptions import SoftTimeLimitExceeded

from jobworker.clock import Clock
from jobworker.settings import Settings
from jobworker.transport.claims import Claims
from jobworker.transport.client import connect

logger = structlog.get_logger(__name__)
Answered = TypeVar("Answered")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


class Link:
    """Connections of the present process, opened when first used."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pid = 0
        self._opening = threading.Lock()

    @property
    def client(self) -> redis.Redis:
        """This process's Redis client."""
        self._open()
        return self._client

    @property
    def claims(self) -> Claims:
        """This process's claims."""
        self._open()
        return self._claims

    def _open(self) -> None:
        if self._pid != os.getpid():
            with self._opening:
                if self._pid != os.getpid():
                    self._client = connect(self._settings.redis_url)
                    self._claims = Claims(self._client)
                    self._pid = os.getpid()

    def insist(self, ask: Callable[[], Answered]) -> Answered:
        """Ask until Redis answers. Whatever is asked here is harmless to ask twice.

        A soft time limit that strikes meanwhile is put off: the job itself is not running here, and an
        outcome must not get lost because reporting it took long.
        """
        pause = _FIRST_PAUSE
        never = threading.Event()
        while True:
            try:
                return ask()
            except SoftTimeLimitExceeded:
                logger.warning("soft_time_limit_while_reporting")
            except redis.RedisError as error:
                logger.warning("redis_away", error=str(error), next_try_in=pause)
                self._clock.wait(never, pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
