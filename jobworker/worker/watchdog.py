"""The watchdog of a worker: ends a worker that is alive and fetches nothing, so that its supervisor starts another.

Such a worker sends heartbeats and responds to pings, but fetches no messages. It is worse than a dead worker, because
no other worker replaces it.
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

#: KEYS: the event stream. Returns 1 if the relay is behind, else nothing.
_IS_BEHIND = IS_BEHIND + "return is_behind(KEYS[1])"

#: KEYS: lists of messages. Returns 1 if a list holds a message, else nothing. A key of another type counts as empty.
_IS_WORK_WAITING = """
for _, list in ipairs(KEYS) do
  if redis.call('TYPE', list).ok == 'list' then return 1 end
end
"""


class Watchdog:
    """The check of one worker, made with every heartbeat.

    `timeout`: maximum time (s) in which messages may wait and a pool process may be free while the worker fetches
    nothing.
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
        """End the worker if it has fetched nothing for longer than the timeout. Raises `redis.RedisError`."""
        taken, now = sum(state.total_count.values()), self._clock.monotonic()
        if (
            taken != self._taken_count
            or not self._has_free_process()
            or not self._is_work_waiting()
            or self._is_held_back()
        ):
            self._taken_count, self._idle_since = taken, now
        elif now - self._idle_since > self._timeout:
            logger.error(
                "worker_stalled", seconds=round(now - self._idle_since), why="messages wait and a pool process is free"
            )
            self._end_worker()

    def arm_loop_timeout(self) -> None:
        """Arm a timer that ends the process unless the event loop beats again in time.

        All stacks are written to standard error then.
        """
        faulthandler.dump_traceback_later(self._timeout, exit=True, file=sys.__stderr__ or sys.stderr)

    @staticmethod
    def disarm_loop_timeout() -> None:
        """Disarm the timer while the event loop waits for Redis, or for a restart."""
        faulthandler.cancel_dump_traceback_later()

    def _has_free_process(self) -> bool:
        return len(state.reserved_requests) < (self._consumer.pool.num_processes or 1)

    def _is_held_back(self) -> bool:
        """Return whether the worker starts nothing because the relay is behind."""
        return bool(self._client.eval(_IS_BEHIND, 1, keys.EVENTS))

    def _is_work_waiting(self) -> bool:
        consumer = self._consumer.task_consumer
        names = [name for queue in consumer.queues for name in get_list_names(queue.name)] if consumer else []
        return bool(names) and bool(self._client.eval(_IS_WORK_WAITING, len(names), *names))
