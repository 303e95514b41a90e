"""When the worker's event loop asks Redis, and what it does while Redis is away."""

from collections.abc import Callable
from typing import Any

import redis
import structlog
from kombu.transport import redis as kombu_redis

from jobworker.clock import Clock

logger = structlog.get_logger(__name__)

#: What a broken connection raises.
CONNECTION_ERRORS = (redis.ConnectionError, redis.TimeoutError, OSError)

#: Pause before broken connections are tried again (s).
_RECONNECT_SECONDS = 0.5

#: Connections are looked after so often (s), not in every turn of the event loop; messages are asked for at once.
_POLL_INTERVAL_SECONDS = 0.1


class Poller(kombu_redis.MultiChannelPoller):
    """kombu's poller, except that it does without Redis for as long as it takes."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._loop: Any = None
        self._paused_until = self._next_poll_at = float("-inf")

    def on_poll_start(self) -> None:
        """Send what should be asked; what is broken is connected again, or later."""
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
        """Look at all connections again in the event loop's turn after so many seconds."""
        self._next_poll_at = float("-inf")
        if self._loop is not None:
            self._loop.call_later(seconds, _do_nothing)

    def _can_fetch(self) -> bool:
        return any(channel.consumes_jobs and not channel._in_poll and channel.can_poll() for channel in self._channels)

    def attach_to_loop(self, loop: Any, on_readable: Callable[[int], None]) -> None:
        """Take part in the event loop's ticks."""
        self._loop = loop

        def on_tick() -> None:
            self.on_poll_start()
            # kombu registers every socket in every tick.
            for descriptor in self.fds:
                if descriptor not in loop.readers:
                    loop.add_reader(descriptor, on_readable, descriptor)

        loop.on_tick.add(on_tick)


def _do_nothing() -> None:
    """For waking up."""
