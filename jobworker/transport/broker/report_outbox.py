"""Report outbox of a worker: reports and acknowledgements that have not reached Redis yet.

They leave together, in one script call (`FLUSH`), by the tick of the worker's event loop. Refused reports stay and
are sent again.
"""

import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, Protocol

import redis
import structlog

from jobworker.clock import Clock
from jobworker.transport import keys
from jobworker.transport.claims import ClaimResult
from jobworker.transport.scripts.messages import FLUSH

logger = structlog.get_logger(__name__)

#: Interval between flushes (s): when few jobs end, and when many do. The first report after a pause leaves at once.
_MIN_FLUSH_INTERVAL_SECONDS, FLUSH_INTERVAL_SECONDS = 0.002, 0.02

#: Number of reports that are flushed regardless of the interval, and the maximum number in one script call.
_FLUSH_THRESHOLD, _FLUSH_BATCH_SIZE = 200, 400

#: Characters of data after which no report is added to a script call: Redis counts a call as used memory, too.
_MAX_FLUSH_CHARACTERS = 128 * 1024

#: Pause after a failed flush (s), doubled with each further failure up to the second figure.
_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 2.0

#: Time of refused flushes (s) after which no further attempt starts.
_OVERDUE_SECONDS = 1.0


class WorkerFenced(Exception):
    """The relay has given this worker up: its reports no longer count."""


class PendingReport(NamedTuple):
    """A report for Redis (an operation of `FLUSH`); `callback` is called once Redis has it."""

    operation: str
    tag: str
    execution: str = ""
    attempt: int = 0
    kind: str = ""
    data: str = ""
    callback: Callable[[], None] | None = None


class StartQueue(Protocol):
    """Messages of this worker that wait for their start, which a flush announces to Redis."""

    def plan_starts(self) -> int:
        """Return how many of the waiting messages may start before the next flush."""
        ...

    def get_start_tag(self, count: int) -> str:
        """Return the tag of the last of the first `count` messages; "" if Redis knows of their start already."""
        ...

    def confirm_starts(self, count: int) -> None:
        """Let the first `count` messages start: Redis knows of it."""
        ...

    def is_starved(self) -> bool:
        """Return whether messages wait and Celery asks for one, but none may start."""
        ...

    def is_high_rate(self) -> bool:
        """Return whether many jobs end at present."""
        ...


class ReportOutbox:
    """Pending reports of one worker, sent in order. Reports may be added by any thread."""

    #: Set by the owner of the messages before the first report.
    start_queue: StartQueue

    def __init__(
        self, worker: str, clock: Clock, connect: Callable[[], redis.Redis], stop_worker: Callable[[], None]
    ) -> None:
        """`connect` opens a client of its own; `stop_worker` ends the worker when it was given up."""
        self.worker = worker
        self.stop_worker = stop_worker
        #: Requests a turn of the event loop soon, from any thread; None: there is no loop, each report is flushed.
        self.call_soon: Callable[[], None] | None = None
        self._clock = clock
        self._connect = connect
        self._client: redis.Redis | None = None
        self._pending: list[PendingReport] = []
        # The number of reports that Redis has: each report has its number, so that none is applied twice.
        self._flushed_count = 0
        self._lock = threading.RLock()
        self._flushed_at = float("-inf")
        self._refused_since: float | None = None
        self._backoff = 0.0

    def add(self, report: PendingReport) -> None:
        """Add a report and request a flush."""
        self._pending.append(report)
        self.request_flush()

    def list_pending(self) -> list[PendingReport]:
        """Return a copy of the reports that Redis does not have."""
        return list(self._pending)

    def request_flush(self) -> None:
        """Flush in the next turn of the event loop; at once where there is no loop."""
        if self.call_soon:
            self.call_soon()
        else:
            self.flush()

    def is_overdue(self) -> bool:
        """Return whether Redis has refused reports for so long that no further attempt should start."""
        since = self._refused_since
        return since is not None and self._clock.monotonic() - since > _OVERDUE_SECONDS

    def compute_flush_delay(self) -> float | None:
        """Return the seconds until the next flush is due; None if there is nothing to flush."""
        starved = self.start_queue.is_starved()
        if not self._pending and not starved:
            return None
        interval = self._backoff or (
            0.0 if starved or len(self._pending) >= _FLUSH_THRESHOLD else self._get_flush_interval()
        )
        return max(0.0, self._flushed_at + interval - self._clock.monotonic())

    def flush(self) -> bool:
        """Send the pending reports and the planned starts.

        Returns False if Redis refused (the reports are kept). Raises `WorkerFenced`.
        """
        with self._lock:
            while True:
                batch = self._get_next_batch()
                starts = self.start_queue.plan_starts()
                if not batch and not self.start_queue.get_start_tag(starts):
                    return True
                try:
                    results = self._send_batch(batch, starts, self._flushed_count + 1)
                except redis.RedisError as error:
                    self._back_off(error)
                    return False
                self._backoff, self._refused_since = 0.0, None
                self._confirm_batch(batch, results)

    def flush_before_exit(self, timeout: float) -> bool:
        """Flush before the worker ends; retry for up to `timeout` seconds. Raises `WorkerFenced`."""
        deadline = self._clock.monotonic() + timeout
        while not self.flush():
            if self._clock.monotonic() > deadline:
                logger.error("reports_not_delivered", count=len(self._pending))
                return False
            self._clock.wait(threading.Event(), _MIN_BACKOFF_SECONDS)
        return True

    def claim(self, report: PendingReport) -> ClaimResult:
        """Send a claim past the pending reports. Raises `redis.RedisError`, `WorkerFenced`."""
        with self._lock:
            return ClaimResult(self._send_batch([report])[0])

    def end_fenced_worker(self) -> NoReturn:
        """End this worker, which was given up; raises `WorkerFenced` where it cannot end."""
        logger.error(
            "worker_was_given_up", worker=self.worker, why="its heartbeat had stopped for longer than its lease"
        )
        self.stop_worker()
        raise WorkerFenced

    def _get_flush_interval(self) -> float:
        return FLUSH_INTERVAL_SECONDS if self.start_queue.is_high_rate() else _MIN_FLUSH_INTERVAL_SECONDS

    def _get_next_batch(self) -> list[PendingReport]:
        reports = self._pending[:_FLUSH_BATCH_SIZE]
        sizes = itertools.accumulate(len(report.data) for report in reports)
        return reports[: 1 + sum(size <= _MAX_FLUSH_CHARACTERS for size in sizes)]

    def _send_batch(self, batch: list[PendingReport], starts: int = 0, number: int = 0) -> list[str]:
        self._flushed_at = self._clock.monotonic()
        if self._client is None:
            self._client = self._connect()
            self._script = self._client.register_script(FLUSH)
        start_tag = self.start_queue.get_start_tag(starts)
        arguments: list[Any] = [self.worker, keys.RUNNING_TTL, keys.FINISHED_TTL, start_tag, number]
        for report in batch:
            arguments += (report.operation, report.tag, report.execution, report.attempt, report.kind, report.data)
        names = [keys.FENCE.format(worker=self.worker), keys.INFLIGHT.format(worker=self.worker), keys.EVENTS]
        results: list[str] = self._script(keys=names, args=arguments)
        if results == ["fenced"]:
            self.end_fenced_worker()
        self.start_queue.confirm_starts(starts)
        return results

    def _back_off(self, error: redis.RedisError) -> None:
        now = self._clock.monotonic()
        self._flushed_at = now
        self._refused_since = now if self._refused_since is None else self._refused_since
        self._backoff = min(self._backoff * 2 or _MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS)
        logger.warning("redis_takes_no_reports", error=str(error), owed=len(self._pending), next_try_in=self._backoff)

    def _confirm_batch(self, batch: list[PendingReport], results: list[str]) -> None:
        del self._pending[: len(batch)]
        self._flushed_count += len(batch)
        for report, result in zip(batch, results, strict=True):
            if result == ClaimResult.STALE:
                logger.warning("report_refused", execution=report.execution, attempt=report.attempt, why=result)
            if report.callback:
                report.callback()
