"""When `http.request` leaves a target alone: `circuit` in a definition.

failures   so many in a row, of whichever execution of the job and on whichever worker; 5 if absent
pause      for so long nobody asks the target (s, or a duration); 60 if absent
"""

from dataclasses import asdict, dataclass
from typing import Any

from jobworker.domain.json.json_reader import JsonObjectReader

#: The task that has circuits.
CIRCUIT_TASK = "http.request"

_DEFAULT_FAILURES, _DEFAULT_PAUSE_SECONDS = 5, 60.0
_MAX_FAILURES = 1000
_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.1, 24 * 3600.0


@dataclass(frozen=True, slots=True)
class CircuitBreakerPolicy:
    """After `failures` in a row a target is left alone for `pause` seconds."""

    failures: int = _DEFAULT_FAILURES
    pause: float = _DEFAULT_PAUSE_SECONDS

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return asdict(self)


def parse(value: object, where: str = "/circuit") -> CircuitBreakerPolicy:
    """Return the policy that a JSON object describes; raises `InvalidInput` with every problem."""
    read = JsonObjectReader(value, where)
    made = CircuitBreakerPolicy(
        failures=read.get_integer("failures", 1, _MAX_FAILURES) or _DEFAULT_FAILURES,
        pause=read.get_seconds("pause", _MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS) or _DEFAULT_PAUSE_SECONDS,
    )
    read.finish()
    return made
