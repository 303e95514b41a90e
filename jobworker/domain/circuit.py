"""When `http.request` leaves a target alone: `circuit` in a definition.

failures   so many in a row, of whichever execution of the job and on whichever worker; 5 if absent
pause      for so long nobody asks the target (s, or a duration); 60 if absent
"""

from dataclasses import asdict, dataclass
from typing import Any

from jobworker.domain.described import Described

#: The task that has circuits.
CIRCUIT_TASK = "http.request"

_USUAL_FAILURES, _USUAL_PAUSE = 5, 60.0
_MOST_FAILURES = 1000
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Circuit:
    """After `failures` in a row a target is left alone for `pause` seconds."""

    failures: int = _USUAL_FAILURES
    pause: float = _USUAL_PAUSE

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return asdict(self)


def parse(given: object, where: str = "/circuit") -> Circuit:
    """Return the policy that a JSON object describes; raises `InvalidInput` with every problem."""
    read = Described(given, where)
    made = Circuit(
        failures=read.get_integer("failures", 1, _MOST_FAILURES) or _USUAL_FAILURES,
        pause=read.get_seconds("pause", _SHORTEST_PAUSE, _LONGEST_PAUSE) or _USUAL_PAUSE,
    )
    read.finish()
    return made
