"""Polling of Redis from the worker's event loop, also while Redis is down."""

from collections.abc import Callable
from typing import Any

import redis
import structlog
from kombu.transport import redis as kombu_redis

from jobworker.clock import Clock

logger = structlog.get_logger(__name__)

#: Errors of a broken connection.
CONNECTION_ERRORS = (redis.ConnectionError, redis.TimeoutError, OSError)

#: Pause before broken connections are reopened (s).
_RECONNECT_SECONDS = 0.5

#: Interval between checks of the connections (s), instead of in every turn of the event loop; messages are requested at
#: once.
_POLL_INTERVAL_SECONDS = 0.1


class Poller(kombu_redis.MultiChannelPoller):
    """kombu's poller, except that it tolerates any outage of Redis."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._loop: Any = None
        self._paused_until = self._next_poll_at = float("-inf")

    def on_poll_start(self) -> None:
        """Send pending requests; reopen broken connections, now or later."""
        now = self._clock.monotonic()
        if now < self._paused_until or (now < self._next_poll_at and not self._can_fetch()):
            return
        self._next_poll_at = now + _POLL_INTERVAL_SECONDS
        try:
            super().on_poll_start()
        except CONNECTION_ERRORS as error:
            logger.warning("redis_away", error=str(error), next_try_in=_RECONNECT_SECONDS)
            self._paused_until = self._clock.monotonic() + _RECONNECT_SECONDS
            self.poll_soon(_RECONNECT_SECONDS)

    def poll_soon(self, seconds: float = 0.0) -> None:
        """Check all connections again in the event loop's turn after `seconds` seconds."""
        self._next_poll_at = float("-inf")
        if self._loop is not None:
            self._loop.call_later(seconds, _do_nothing)

    def _can_fetch(self) -> bool:
        return any(channel.consumes_jobs and not channel._in_poll and channel.can_poll() for channel in self._channels)

    def attach_to_loop(self, loop: Any, on_readable: Callable[[int], None]) -> None:
        """Add the poller to the event loop's ticks."""
        self._loop = loop

        def on_tick() -> None:
            self.on_poll_start()
            # kombu registers every socket in every tick.
            for descriptor in self.fds:
                if descriptor not in loop.readers:
                    loop.add_reader(descriptor, on_readable, descriptor)

        loop.on_tick.add(on_tick)


def _do_nothing() -> None:
    """Do nothing; scheduled to wake the event loop up."""
