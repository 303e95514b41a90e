"""A probe that may block forever, shared by concurrent callers."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from jobworker.clock import Clock
from jobworker.domain.errors import ConfigurationError

#: Timeout of a caller (s); the writers' lock is held for milliseconds.
_WAIT_TIMEOUT_SECONDS = 1.0

#: Maximum age (s) of an outcome that is reused, so that any number of health checks cause one write per second.
_MAX_AGE_SECONDS = 1.0


class Probe:
    """Runner of one attempt at a time in its own thread; concurrent callers share the outcome."""

    def __init__(
        self, attempt: Callable[[], None], clock: Clock, operation: str = "a write", max_age: float = _MAX_AGE_SECONDS
    ) -> None:
        self._fresh = max_age
        self._operation = operation
        self._attempt = attempt
        self._clock = clock
        self._lock = threading.Lock()
        self._outcome: Future[None] | None = None
        self._began = 0.0

    def check(self) -> None:
        """Raise the error of the latest attempt, or `ConfigurationError` if the attempt does not end in time."""
        with self._lock:
            now = self._clock.monotonic()
            if self._outcome is None or (self._outcome.done() and now - self._began >= self._fresh):
                self._outcome, self._began = Future(), now
                threading.Thread(target=self._run, args=(self._outcome,), name="probe", daemon=True).start()
            outcome = self._outcome
        try:
            outcome.result(_WAIT_TIMEOUT_SECONDS)
        except TimeoutError:
            waited = self._clock.monotonic() - self._began
            raise ConfigurationError(
                f"{self._operation} has not finished within {waited:.0f} s; a lock may be held"
            ) from None

    def _run(self, outcome: Future[None]) -> None:
        try:
            self._attempt()
        except Exception as error:  # noqa: BLE001  raised again in each caller
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
