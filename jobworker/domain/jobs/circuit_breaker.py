"""Circuit breaker of `http.request`: the policy `circuit` of a definition.

failures   number of consecutive failures, across executions of the job and workers, that open the circuit; 5 if absent
pause      time without requests to the target after that (s, or a duration); 60 if absent
"""

from dataclasses import asdict, dataclass
from typing import Any

from jobworker.domain.json.json_reader import JsonObjectReader

#: The task that has circuit breakers.
CIRCUIT_TASK = "http.request"

_DEFAULT_FAILURES, _DEFAULT_PAUSE_SECONDS = 5, 60.0
_MAX_FAILURES = 1000
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.1, 24 * 3600.0


@dataclass(frozen=True, slots=True)
class CircuitBreakerPolicy:
    """Policy that stops requests to a target for `pause` seconds after `failures` consecutive failures."""

    failures: int = _DEFAULT_FAILURES
    pause: float = _DEFAULT_PAUSE_SECONDS

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return asdict(self)


def parse(value: object, where: str = "/circuit") -> CircuitBreakerPolicy:
    """Return the policy in a JSON object. Raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    policy = CircuitBreakerPolicy(
        failures=read.get_integer("failures", 1, _MAX_FAILURES) or _DEFAULT_FAILURES,
        pause=read.get_seconds("pause", _MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS) or _DEFAULT_PAUSE_SECONDS,
    )
    read.finish()
    return policy
