"""Deduplication of reports on problems that recur: unreadable rows, keys, events."""

import threading


class ProblemDeduplicator:
    """The latest problems by key, so that each is logged once and can be shown in `/readyz`.

    Holds at most `limit` keys; the key that was reported first is dropped. Thread-safe.
    """

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, key: str, problem: str = "") -> bool:
        """Record the problem of `key`; return True if the problem is new or has changed and is to be reported."""
        with self._lock:
            if self._problems.get(key) == problem:
                return False
            if key not in self._problems and len(self._problems) >= self._limit:
                del self._problems[next(iter(self._problems))]
            self._problems[key] = problem
            return True

    def forget(self, key: str) -> None:
        """Forget a key whose problem is gone; if the problem recurs, it is reported again."""
        if self._problems:
            with self._lock:
                self._problems.pop(key, None)

    def __bool__(self) -> bool:
        """Return whether there are problems."""
        return bool(self._problems)

    def get_problems(self) -> dict[str, str]:
        """Return the recorded problems by key, the first reported first."""
        with self._lock:
            return dict(self._problems)
