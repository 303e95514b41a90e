"""Trying something that may take for ever, on behalf of many who ask at once."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from jobworker.clock import Clock
from jobworker.domain.errors import Misconfigured

#: Whoever asks waits no longer than this (s); the writers' lock is held for milliseconds.
_PATIENCE = 1.0

#: An answer is passed on for so long (s): probes of any number write once a second.
_FRESH = 1.0


class Probe:
    """An attempt that runs in a thread of its own, one at a time, and whose outcome all share who ask meanwhile."""

    def __init__(self, attempt: Callable[[], None], clock: Clock) -> None:
        self._attempt = attempt
        self._clock = clock
        self._lock = threading.Lock()
        self._outcome: Future[None] | None = None
        self._began = 0.0

    def ask(self) -> None:
        """Raise what the latest attempt raised, or `Misconfigured` if it does not come to an end."""
        with self._lock:
            now = self._clock.monotonic()
            if self._outcome is None or (self._outcome.done() and now - self._began >= _FRESH):
                self._outcome, self._began = Future(), now
                threading.Thread(target=self._run, args=(self._outcome,), name="probe", daemon=True).start()
            outcome = self._outcome
        try:
            outcome.result(_PATIENCE)
        except TimeoutError:
            waited = self._clock.monotonic() - self._began
            raise Misconfigured(f"a write has not come to its end for {waited:.0f} s: is a lock held?") from None

    def _run(self, outcome: Future[None]) -> None:
        try:
            self._attempt()
        except Exception as error:  # noqa: BLE001  whoever asks is told
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
