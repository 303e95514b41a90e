"""Circuit breakers shared by all workers: requests to a target that failed repeatedly stop for a while."""

import redis

from jobworker.transport import keys
from jobworker.transport.scripts import circuit_breaker

#: Time after which the failures of a target are forgotten if no other follows (s).
_FAILURE_TTL_SECONDS = 3600

#: Interval at which other callers check again during a trial request (s).
_TRIAL_POLL_SECONDS = 2.0


class CircuitBreaker:
    """The circuit breakers, by the name of the target. Every method raises `redis.RedisError`."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._enter = client.register_script(circuit_breaker.ACQUIRE_PERMISSION)
        self._failed = client.register_script(circuit_breaker.RECORD_FAILURE)

    def acquire_permission(self, target: str, trial_timeout: float) -> float:
        """Return 0 if a request to the target is permitted, or else the time to wait before asking again (s).

        After a pause, one caller is permitted a trial request, which may take `trial_timeout` seconds.
        """
        return int(self._enter(keys=[_build_key(target)], args=[_ms(trial_timeout), _ms(_TRIAL_POLL_SECONDS)])) / 1000

    def record_success(self, target: str) -> None:
        """Delete the recorded failures of the target."""
        self._client.delete(_build_key(target))

    def record_failure(self, target: str, failure_threshold: int, open_seconds: float) -> int:
        """Record a failure of the target; return the number of failures in a row.

        After `failure_threshold` failures in a row, the circuit opens for `open_seconds` seconds.
        """
        return int(
            self._failed(
                keys=[_build_key(target)], args=[failure_threshold, _ms(open_seconds), _FAILURE_TTL_SECONDS * 1000]
            )
        )


def _build_key(target: str) -> str:
    return keys.CIRCUIT.format(target=target)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
