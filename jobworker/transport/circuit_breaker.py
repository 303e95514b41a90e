"""Circuit breakers that all workers share: a target that fails again and again is left alone for a while."""

import redis

from jobworker.transport import keys
from jobworker.transport.scripts import circuit_breaker

#: So long (s) a failure is held against a target when no other follows.
_FAILURE_TTL_SECONDS = 3600

#: While somebody tries whether a target is well again, the others look again so soon (s).
_TRIAL_POLL_SECONDS = 2.0


class CircuitBreaker:
    """The circuits, by the name of the target. Every method raises `redis.RedisError`."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._enter = client.register_script(circuit_breaker.ACQUIRE_PERMISSION)
        self._failed = client.register_script(circuit_breaker.RECORD_FAILURE)

    def acquire_permission(self, target: str, trial_timeout: float) -> float:
        """0: the target may be asked. Else how long (s) to leave it alone.

        After a pause one who asks is let through as a trial, which may take `trial_timeout` seconds.
        """
        return int(self._enter(keys=[_key(target)], args=[_ms(trial_timeout), _ms(_TRIAL_POLL_SECONDS)])) / 1000

    def record_success(self, target: str) -> None:
        """The target answered as it should: what was held against it is forgotten."""
        self._client.delete(_key(target))

    def record_failure(self, target: str, failure_threshold: int, open_seconds: float) -> int:
        """It did not. After `failure_threshold` failures in a row it is left alone for `open_seconds` seconds; answers how many."""
        return int(
            self._failed(keys=[_key(target)], args=[failure_threshold, _ms(open_seconds), _FAILURE_TTL_SECONDS * 1000])
        )


def _key(target: str) -> str:
    return keys.CIRCUIT.format(target=target)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
