"""When a relay that stands by takes over: no clock of another host decides."""

from jobworker.clock import Clock
from jobworker.store.relay_state import Tenure

#: A leadership that was not renewed for so long (s), while this relay watched, is silent. The leader renews it each
#: second, unless a turn takes longer.
SILENT_AFTER = 3.0


class Rival:
    """Another relay's leadership, as a relay that stands by has watched it by its own monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tenure: Tenure | None = None
        self._since = float("-inf")

    def silent(self, tenure: Tenure) -> Tenure | None:
        """Take note of the leadership as it stands; return it if it has not been renewed for too long."""
        now = self._clock.monotonic()
        if tenure != self._tenure:
            self._tenure, self._since = tenure, now
        return tenure if now - self._since >= SILENT_AFTER else None
