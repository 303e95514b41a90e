"""Ends a worker that looks alive and does nothing, so that whatever supervises it starts another.

Its heart beats and it answers pings, and yet it takes no work: such a worker is worse than a dead one, since
nobody takes its place.
"""

import faulthandler
import sys
from collections.abc import Callable
from typing import Any

import redis
import structlog
from celery.worker import state

from jobworker.clock import Clock
from jobworker.transport import keys
from jobworker.transport.publisher import get_list_names
from jobworker.transport.scripts.common import IS_BEHIND

logger = structlog.get_logger(__name__)

#: KEYS events stream. Answers 1 if the relay is behind, else nothing.
_IS_BEHIND = IS_BEHIND + "return is_behind(KEYS[1])"

#: KEYS lists of messages. Answers 1 if something waits in one, else nothing. A key of another type is no work.
_IS_WORK_WAITING = """
for _, list in ipairs(KEYS) do
  if redis.call('TYPE', list).ok == 'list' then return 1 end
end
"""


class Watchdog:
    """Looks at one worker with every heartbeat.

    `patience`: so long (s) there may be work waiting and a slot free, and nothing taken.
    """

    def __init__(
        self, consumer: Any, client: redis.Redis, clock: Clock, timeout: float, end_worker: Callable[[], None]
    ) -> None:
        self._consumer = consumer
        self._client = client
        self._clock = clock
        self._timeout = timeout
        self._end_worker = end_worker
        self._taken_count = -1
        self._idle_since = clock.monotonic()

    def check_worker(self) -> None:
        """End the worker if it has taken nothing for too long. Raises `redis.RedisError`."""
        taken, now = sum(state.total_count.values()), self._clock.monotonic()
        if taken != self._taken_count or not self._has_room() or not self._is_work_waiting() or self._is_held_back():
            self._taken_count, self._idle_since = taken, now
        elif now - self._idle_since > self._timeout:
            logger.error(
                "worker_takes_nothing", seconds=round(now - self._idle_since), why="work waits and a slot is free"
            )
            self._end_worker()

    def arm_loop_timeout(self) -> None:
        """For a beat of the event loop: end the process, with all its stacks on standard error, if none follows."""
        faulthandler.dump_traceback_later(self._timeout, exit=True, file=sys.__stderr__ or sys.stderr)

    @staticmethod
    def disarm_loop_timeout() -> None:
        """The event loop stands still for good reason: it waits for Redis to come back, or for a new start."""
        faulthandler.cancel_dump_traceback_later()

    def _has_room(self) -> bool:
        return len(state.reserved_requests) < (self._consumer.pool.num_processes or 1)

    def _is_held_back(self) -> bool:
        """Whether nothing new is begun because the relay is behind."""
        return bool(self._client.eval(_IS_BEHIND, 1, keys.EVENTS))

    def _is_work_waiting(self) -> bool:
        consumer = self._consumer.task_consumer
        names = [name for queue in consumer.queues for name in get_list_names(queue.name)] if consumer else []
        return bool(names) and bool(self._client.eval(_IS_WORK_WAITING, len(names), *names))
