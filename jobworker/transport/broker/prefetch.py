"""Prefetch estimation, and the distribution of fetches over queues. Pure: time and counts are arguments."""

from collections.abc import Mapping, Sequence

from jobworker.domain.errors import ConfigurationError

#: Messages are prefetched if they start within this time at the recent rate (s); short enough that order does not
#: suffer.
_PREFETCH_SECONDS = 0.05

#: Time over which the rate is measured (s).
_WINDOW_SECONDS = 0.2

#: Rate of ended jobs above which reports are collected for longer (1/s).
_HIGH_RATE = 200

#: Maximum number of messages that one call fetches, and that wait in the worker.
MAX_PREFETCH = 64

STRICT = "strict"


class PrefetchEstimator:
    """Estimates how many messages to prefetch beyond those that can start at once.

    None while jobs take long; a batch while they are very short.
    """

    def __init__(self) -> None:
        self._window_started_at = 0.0
        self._ended = 0
        self._rate = 0.0

    def record_ended(self, count: int = 1) -> None:
        """Record that `count` jobs have ended."""
        self._ended += count

    def is_high_rate(self) -> bool:
        """Return whether jobs end so fast that it pays to report many at once."""
        return self._rate > _HIGH_RATE

    def estimate_starts(self, now: float, seconds: float) -> int:
        """Return how many messages start within `seconds` seconds, at the recent rate."""
        return min(self.estimate_prefetch(now), int(self._rate * seconds * 1.5))

    def reset(self) -> None:
        """Prefetch nothing until the rate is measured again, because prefetched messages did not start in time."""
        self._rate, self._ended = 0.0, 0

    def estimate_prefetch(self, now: float) -> int:
        """Return how many messages to prefetch."""
        passed = now - self._window_started_at
        if passed >= _WINDOW_SECONDS:
            self._rate = self._ended / passed
            self._window_started_at, self._ended = now, 0
        return min(MAX_PREFETCH, int(self._rate * _PREFETCH_SECONDS))


class QueueWeights:
    """Distribution of fetches over queues: by weight (no queue starves), or strictly in the order given.

    By weight it is smooth weighted round robin: of ten messages a queue with six tenths of the weight gets six, spread
    evenly, and the share that one queue does not need goes to the others.
    """

    def __init__(self, weights: str) -> None:
        self._strict = weights.strip() == STRICT
        self._weights = {} if self._strict else parse_weights(weights)
        self._balance: dict[str, int] = {}

    def allocate(self, count: int, queues: Sequence[str]) -> list[tuple[str, int]]:
        """Return the share of each queue in the next `count` messages, in the order in which queues get the rest."""
        if self._strict or len(queues) == 1:
            return [(queue, count) for queue in queues]
        weights = {queue: self._weights.get(queue, 1) for queue in queues}
        shares = dict.fromkeys(sorted(queues, key=lambda queue: -weights[queue]), 0)
        for _ in range(count):
            shares[self._pick_queue(weights)] += 1
        return list(shares.items())

    def _pick_queue(self, weights: Mapping[str, int]) -> str:
        for queue, weight in weights.items():
            self._balance[queue] = self._balance.get(queue, 0) + weight
        chosen = max(weights, key=lambda queue: self._balance[queue])
        self._balance[chosen] -= sum(weights.values())
        return chosen


def parse_weights(text: str) -> dict[str, int]:
    """Return `{"critical": 6, "default": 3}` for `"critical=6 default=3"`; raises `ConfigurationError`."""
    weights: dict[str, int] = {}
    for word in text.split():
        queue, _, weight = word.partition("=")
        if not queue or not weight.isdecimal() or not 1 <= int(weight) <= 1000:
            raise ConfigurationError(
                f"JOBWORKER_QUEUE_WEIGHTS={text}: {word!r} should look like critical=6 (weights 1 to 1000), "
                f'or the whole be "{STRICT}"'
            )
        weights[queue] = int(weight)
    return weights
