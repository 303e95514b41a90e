"""When the worker's event loop asks Redis, and what it does while Redis is away."""

from collections.abc import Callable
from typing import Any

import redis
import structlog
from kombu.transport import redis as kombu_redis

from jobworker.clock import Clock

logger = structlog.get_logger(__name__)

#: What a broken connection raises.
AWAY = (redis.ConnectionError, redis.TimeoutError, OSError)

#: Pause before broken connections are tried again (s).
_PAUSE = 0.5


class Poller(kombu_redis.MultiChannelPoller):
    """kombu's poller, except that it does without Redis for as long as it takes."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._loop: Any = None
        self._paused_until = float("-inf")

    def on_poll_start(self) -> None:
        """Send what should be asked; what is broken is connected again, or later."""
        if self._clock.monotonic() < self._paused_until:
            return
        try:
            super().on_poll_start()
        except AWAY as error:
            logger.warning("redis_away", error=str(error), next_try_in=_PAUSE)
            self._paused_until = self._clock.monotonic() + _PAUSE
            self.wake_in(_PAUSE)

    def wake_in(self, seconds: float) -> None:
        """Make the event loop turn by then."""
        if self._loop is not None:
            self._loop.call_later(seconds, _nothing)

    def attach(self, loop: Any, on_readable: Callable[[int], None]) -> None:
        """Take part in the event loop's ticks."""
        self._loop = loop

        def on_tick() -> None:
            self.on_poll_start()
            # kombu registers every socket in every tick.
            for descriptor in self.fds:
                if descriptor not in loop.readers:
                    loop.add_reader(descriptor, on_readable, descriptor)

        loop.on_tick.add(on_tick)


def _nothing() -> None:
    """For waking up."""
