"""Queues of direct calls. Until a worker fetches such a message, only Redis knows of it."""

import threading
from collections.abc import Collection
from typing import Any

import redis

from jobworker.clock import Clock
from jobworker.transport import keys
from jobworker.transport.publisher import get_list_names

#: Interval at which a process records a queue again (s), and time after its last record that an empty queue is
#: forgotten (s).
_RECORD_INTERVAL_SECONDS = 60.0
_RETENTION_SECONDS = 3600.0

#: Maximum number of recorded queues.
_MAX_QUEUES = 1000

#: Maximum length of a queue name (characters), as in AMQP; longer names are ignored.
_MAX_NAME_LENGTH = 255


class DirectCallQueues:
    """Records the queues of direct calls, and counts calls in queues without a worker."""

    def __init__(self, client: redis.Redis, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._recorded_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def record(self, queue: str) -> None:
        """Record that a direct call is sent to `queue`. Raises `redis.RedisError`."""
        now = self._clock.monotonic()
        with self._lock:
            if now - self._recorded_at.get(queue, float("-inf")) < _RECORD_INTERVAL_SECONDS:
                return
        self._client.zadd(keys.CALLED_QUEUES, {queue: self._clock.now().timestamp()})
        with self._lock:
            if len(self._recorded_at) >= _MAX_QUEUES:
                self._recorded_at.clear()
            self._recorded_at[queue] = now

    def count_waiting(self, served: Collection[str]) -> dict[str, int]:
        """Return how many messages wait in each recorded queue that is not `served`. Raises `redis.RedisError`.

        Only the latest `_MAX_QUEUES` records are used; older ones are deleted.
        """
        self._client.zremrangebyrank(keys.CALLED_QUEUES, 0, -_MAX_QUEUES - 1)
        records: Any = self._client.zrevrange(keys.CALLED_QUEUES, 0, _MAX_QUEUES - 1, withscores=True)
        unserved = [(queue, at) for queue, at in records if queue not in served and len(queue) <= _MAX_NAME_LENGTH]
        with self._client.pipeline(transaction=False) as pipe:
            for queue, _ in unserved:
                for name in get_list_names(queue):
                    pipe.llen(name)
            lengths = [length if isinstance(length, int) else 0 for length in pipe.execute(raise_on_error=False)]
        counts, step = {}, len(get_list_names(""))
        for number, (queue, at) in enumerate(unserved):
            counts[queue] = sum(lengths[number * step : (number + 1) * step])
            if not counts[queue] and at < self._clock.now().timestamp() - _RETENTION_SECONDS:
                self._client.zrem(keys.CALLED_QUEUES, queue)
        return {queue: count for queue, count in counts.items() if count}
