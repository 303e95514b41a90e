"""Content of Redis and SQL that the relay cannot use: logged once, and shown in `/readyz` while it persists."""

import datetime as dt
import logging
from dataclasses import dataclass
from typing import Any

import structlog

from jobworker.clock import Clock
from jobworker.store import unreadable_rows
from jobworker.telemetry.log_once import ProblemDeduplicator

logger = structlog.get_logger(__name__)

#: Time after which a problem that does not recur is dropped (s).
_RETENTION_SECONDS = 600.0

#: Maximum number of problems shown in `/readyz`, and of characters of each; the log has all of them.
_MAX_PROBLEMS, _MAX_DETAIL_LENGTH = 20, 300


@dataclass(frozen=True, slots=True)
class RelayProblem:
    """An item that is skipped, or a step that fails; `at` is the time of its last occurrence."""

    item: str
    detail: str
    at: dt.datetime

    def to_json(self) -> dict[str, Any]:
        """Return the problem as stored in SQL."""
        return {"what": self.item, "detail": self.detail, "at": self.at.isoformat()}


class RelayProblems:
    """The problems of one relay. `subject` names the item: the key, the row, the step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged = ProblemDeduplicator()
        self._latest: dict[str, RelayProblem] = {}
        self._rows: list[RelayProblem] = []

    def report(
        self, event: str, subject: str, detail: str, item: str = "", level: int = logging.ERROR, **log_fields: str
    ) -> None:
        """Log the problem as `event` unless it was logged before, and keep it.

        `item` distinguishes items that share one entry in `/readyz`, such as the entries of a stream: each is logged.
        `log_fields` are for the log alone.
        """
        if self._logged.add(f"{subject} {item}", detail):
            logger.log(level, event, what=subject, **({"item": item} if item else {}), why=detail, **log_fields)
        self._latest.pop(subject, None)
        self._latest[subject] = RelayProblem(subject, detail[:_MAX_DETAIL_LENGTH], self._clock.now())
        if len(self._latest) > _MAX_PROBLEMS:
            del self._latest[next(iter(self._latest))]

    def clear(self, subject: str) -> None:
        """Drop a problem: if it recurs, it is logged again."""
        self._logged.forget(f"{subject} ")
        self._latest.pop(subject, None)

    def list_current(self) -> list[RelayProblem]:
        """Return the recent problems, the latest last."""
        since = self._clock.now() - dt.timedelta(seconds=_RETENTION_SECONDS)
        for subject, problem in list(self._latest.items()):
            if problem.at < since:
                self.clear(subject)
        return list(self._latest.values())

    def list_with_unreadable_rows(self) -> list[RelayProblem]:
        """Return the latest unreadable rows of this process, followed by the recent problems."""
        unreadable = list(unreadable_rows.problem_log.get_problems().items())[-_MAX_PROBLEMS:]
        now, seen = self._clock.now(), {(row.item, row.detail): row for row in self._rows}
        rows = [RelayProblem(subject, why[:_MAX_DETAIL_LENGTH], now) for subject, why in unreadable]
        self._rows = [seen.get((row.item, row.detail), row) for row in rows]
        return [*self._rows, *self.list_current()]
