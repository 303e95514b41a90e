"""What a worker has taken out of Redis, and what it owes Redis.

Everything a worker's parent process knows about messages is here, whatever becomes of connections: what
was fetched and waits, what Celery has in hand, and the reports and acknowledgements that have not
left yet. Those leave together, in one step of Redis (`SETTLE`), by the tick of the event loop; what
Redis does not take is kept and offered again.
"""

import collections
import itertools
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import redis
import structlog

from jobworker.clock import Clock
from jobworker.domain.executions.events import EventKind
from jobworker.transport import keys
from jobworker.transport.broker.messages import FetchedMessage, PendingReport, parse_claim, parse_claim_from_message
from jobworker.transport.broker.prefetch import MAX_PREFETCH, PrefetchEstimator
from jobworker.transport.claims import Claim, ClaimResult
from jobworker.transport.scripts.messages import FLUSH

logger = structlog.get_logger(__name__)

#: Reports leave at this distance (s), the second while many jobs end; after a pause the first leaves at once.
_MIN_FLUSH_INTERVAL_SECONDS, _FLUSH_INTERVAL_SECONDS = 0.002, 0.02

#: Reports that leave at once however short the last one is ago, and the most that leave in one call.
_FLUSH_THRESHOLD, _FLUSH_BATCH_SIZE = 200, 400

#: Characters of data after which no report is added to a call: Redis counts a call as used memory, too.
_MAX_FLUSH_CHARACTERS = 128 * 1024

#: Pause before Redis is asked again (s), doubled up to the second figure.
_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 2.0

#: What was fetched and has not started within so long (s) goes back, for another worker or a more urgent job.
_PREFETCH_TIMEOUT_SECONDS = 0.2

#: While reports could not leave for so long (s), nothing new is begun.
_OVERDUE_SECONDS = 1.0


class WorkerFenced(Exception):
    """This worker was given up: what it does no longer counts."""


class Mailbox:
    """One worker's messages and reports. Reports may come from any thread; the rest belongs to the event loop."""

    def __init__(
        self,
        worker: str,
        code_version: str,
        clock: Clock,
        connect: Callable[[], redis.Redis],
        stop_worker: Callable[[], None],
    ) -> None:
        """`connect` opens a client of its own; `stop_worker` ends the worker when it was given up."""
        self.worker = worker
        #: What was fetched and is not in Celery's hands; the first `_cleared` of it may start.
        self.prefetched: collections.deque[FetchedMessage] = collections.deque()
        #: What Celery has in hand, by tag.
        self.delivered: dict[str, Claim | None] = {}
        self.prefetch_estimator = PrefetchEstimator()
        #: Asks for a turn of the event loop soon, from whatever thread; None: there is none, settle at once.
        self.call_soon: Callable[[], None] | None = None
        #: Hands to Celery what can start, and how many could; whoever consumes sets them.
        self.deliver_ready: Callable[[], None] = _do_nothing
        self.get_credit: Callable[[], int] = int  # Which is 0: nobody consumes.
        self._startable_count = 0
        self._clock = clock
        self._connect = connect
        self.stop_worker = stop_worker
        self._client: redis.Redis | None = None
        # The data of a `running` event, before and after the tag.
        self._running_data = (
            f'{{"worker":{json.dumps(worker)},"code_version":{json.dumps(code_version)},"token":"',
            '"}',
        )
        self._next_tag = 1
        self._pending_reports: list[PendingReport] = []
        # How many reports Redis has taken: each has its number, so that none is told twice.
        self._flushed_count = 0
        self._flush_lock = threading.RLock()
        self._flushed_at = float("-inf")
        self._refused_since: float | None = None
        self._backoff = 0.0

    # --- messages ---------------------------------------------------------------------------------------------

    def allocate_tags(self, count: int = 0) -> int:
        """The first of `count` tags that were never used before."""
        first = self._next_tag
        self._next_tag += count
        return first

    def add_fetched(self, entries: Iterable[tuple[str, str, bytes]], startable: int = 0) -> None:
        """(tag, queue, message) that are in the in-flight hash now; `startable` of them may start, and all before."""
        now = self._clock.monotonic()
        before = len(self.prefetched)
        for tag, queue, message in entries:
            self.prefetched.append(
                FetchedMessage(tag, queue, message, parse_claim_from_message(message, self.worker, tag), now)
            )
        if startable:
            self._startable_count = min(before + startable, len(self.prefetched))
        if self._startable_count < len(self.prefetched):
            self._request_flush()

    def add_adopted(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        """The same, of messages that were fetched earlier than those that are waiting."""
        later, self.prefetched, self._startable_count = self.prefetched, collections.deque(), 0
        self.add_fetched(entries)
        self.prefetched.extend(later)

    def pop_startable(self) -> FetchedMessage | None:
        """The next message that may start, which Celery has in hand from now on."""
        if not self._startable_count or self.is_overdue():
            return None
        self._startable_count -= 1
        fetched = self.prefetched.popleft()
        self.delivered[fetched.tag] = fetched.claim
        return fetched

    def compute_fetch_size(self) -> int:
        """How many messages to fetch."""
        if self.is_overdue():
            return 0
        ahead = self.prefetch_estimator.estimate_prefetch(self._clock.monotonic())
        room = min(MAX_PREFETCH, self.get_credit() + ahead - len(self.prefetched))
        # By the batch: not one call for each message that left.
        return room if room > 0 and (not self.prefetched or room >= ahead // 2) else 0

    def estimate_startable(self) -> int:
        """How many of the messages that are waiting may have started before Redis is told the next time."""
        return self.get_credit() + self.prefetch_estimator.estimate_starts(
            self._clock.monotonic(), _FLUSH_INTERVAL_SECONDS
        )

    def is_overdue(self) -> bool:
        """Whether Redis has refused reports for so long that nothing new should begin."""
        since = self._refused_since
        return since is not None and self._clock.monotonic() - since > _OVERDUE_SECONDS

    def get_tags(self) -> set[str]:
        """The tags of all messages that are waiting, in hand, or done and not yet acknowledged."""
        return (
            {fetched.tag for fetched in self.prefetched}
            | set(self.delivered)
            | {owed.tag for owed in list(self._pending_reports)}
        )

    def is_empty(self) -> bool:
        """Whether this worker has nothing in hand and owes nothing."""
        return not (self.prefetched or self.delivered or self._pending_reports)

    def requeue_late(self) -> None:
        """Return what was fetched ahead and has not started in time."""
        if self.prefetched and self._clock.monotonic() - self.prefetched[0].fetched_at > _PREFETCH_TIMEOUT_SECONDS:
            self.prefetch_estimator.reset()
            self.requeue_prefetched()

    def requeue_prefetched(self) -> None:
        """Return everything that was not handed to Celery, the last fetched first."""
        self._startable_count = 0
        while self.prefetched:
            fetched = self.prefetched.pop()
            self.delivered[fetched.tag] = fetched.claim
            self.requeue(fetched.tag)

    def requeue_all(self) -> None:
        """Return everything that is not done: the worker stops. What Celery had in hand may have started."""
        self.requeue_prefetched()
        for tag, ticket in list(self.delivered.items()):
            if ticket:
                data = {"worker": ticket.worker, "token": tag, "reason": "its worker was shut down"}
                self.report_ended(ticket, EventKind.INTERRUPTED, json.dumps(data))
            else:
                self.requeue(tag)

    # --- reports ----------------------------------------------------------------------------------------------

    def can_start(self, claim: Claim) -> bool:
        """Whether the attempt was cleared when it was handed over."""
        return self.delivered.get(claim.token) == claim

    def claim(self, claim: Claim) -> ClaimResult:
        """Ask whether an attempt that no fetch has taken may start. Raises `redis.RedisError`, `Fenced`."""
        with self._flush_lock:
            answer = ClaimResult(
                self._send_batch([PendingReport("claim", claim.token, claim.execution, claim.attempt)])[0]
            )
        if answer is ClaimResult.RUN:
            self.delivered[claim.token] = claim
        return answer

    def report_direct_call(self, claim: Claim, data: str) -> None:
        """The attempt is the first of an execution that was called from Python; said before anything else about it."""
        self._add_report(PendingReport("tell", claim.token, claim.execution, claim.attempt, EventKind.CALLED, data))

    def report_started(self, claim: Claim) -> None:
        """A process or thread has begun with the attempt."""
        data = claim.token.join(self._running_data)
        self._add_report(PendingReport("tell", claim.token, claim.execution, claim.attempt, EventKind.RUNNING, data))

    def report_ended(self, claim: Claim, kind: str, data: str, callback: Callable[[], None] | None = None) -> None:
        """The attempt ended: the report, its data as JSON, and the acknowledgement. `callback` once Redis has it."""
        self._release(claim.token)
        self._add_report(PendingReport("end", claim.token, claim.execution, claim.attempt, kind, data, callback))

    def report_refused(self, claim: Claim, kind: str, data: str) -> None:
        """The attempt cannot start on this worker; somebody else may try it."""
        self._release(claim.token)
        self._add_report(PendingReport("refuse", claim.token, claim.execution, claim.attempt, kind, data))

    def acknowledge(self, tag: str, kind: str | None = None, data: str = "{}") -> None:
        """A message is done that is no attempt, or a copy of one. `kind`: what to tell about it."""
        if tag in self.delivered or kind:
            self._release(tag)
            self._add_report(PendingReport("done", tag, kind=kind or "", data=data))

    def reject(self, tag: str, headers: Any, error: Exception, reason: str, queue: str | None) -> None:
        """A message that cannot become a run of a job: report it, and be done with it."""
        # The job has raised nothing, so it is not shown as what a job raised.
        why = f"{reason}: {type(error).__name__}: {error}"[:1000]
        told = {"type": "MessageRejected", "message": why, "traceback": None}
        ticket = parse_claim(headers, self.worker, tag)
        if ticket:
            mine = {"worker": ticket.worker, "token": tag, "reason": reason, "error": told}
            self.report_ended(ticket, EventKind.REJECTED, json.dumps(mine))
        else:
            known = headers if isinstance(headers, dict) else {}
            ids = {"message": known.get("id"), "task": known.get("task"), "queue": queue}
            self.acknowledge(tag, EventKind.REJECTED, json.dumps({**ids, "reason": reason, "error": told}, default=str))

    def requeue(self, tag: str) -> None:
        """The message was not started and goes back to the front of its list."""
        if tag in self.delivered:
            ticket = self.delivered.pop(tag)
            execution, attempt = (ticket.execution, ticket.attempt) if ticket else ("", 0)
            self._add_report(PendingReport("back", tag, execution, attempt))

    def list_claims(self) -> list[Claim]:
        """Return the attempts of this worker that run, may start at any moment, or whose end Redis has not taken."""
        waiting = [fetched.claim for fetched in list(self.prefetched)]
        # Otherwise an attempt would be believed lost, and run again, while a full Redis does not take its end.
        ends = [owed for owed in list(self._pending_reports) if owed.operation == "end"]
        ended = [Claim(owed.execution, owed.attempt, self.worker, owed.tag) for owed in ends]
        return [ticket for ticket in [*self.delivered.values(), *waiting, *ended] if ticket]

    def end_fenced_worker(self) -> NoReturn:
        """Another has taken this worker's place; it ends, or `Fenced` is raised where it cannot."""
        logger.error(
            "worker_was_given_up", worker=self.worker, why="its heartbeat had stopped for longer than its lease"
        )
        self.stop_worker()
        raise WorkerFenced

    # --- settling ---------------------------------------------------------------------------------------------

    def compute_flush_delay(self) -> float | None:
        """Seconds until Redis should be told something; None if there is nothing to tell."""
        idle = self.prefetched and not self._startable_count and self.get_credit() > 0
        if not self._pending_reports and not idle:
            return None
        pace = self._backoff or (
            0.0 if idle or len(self._pending_reports) >= _FLUSH_THRESHOLD else self._get_flush_interval()
        )
        return max(0.0, self._flushed_at + pace - self._clock.monotonic())

    def _get_flush_interval(self) -> float:
        return _FLUSH_INTERVAL_SECONDS if self.prefetch_estimator.is_high_rate() else _MIN_FLUSH_INTERVAL_SECONDS

    def flush(self) -> bool:
        """Tell Redis what is owed and what starts next; False if it did not take it (it is kept). Raises `Fenced`."""
        with self._flush_lock:
            while True:
                part = self._get_next_batch()
                clear = min(len(self.prefetched), self.estimate_startable())
                if not part and clear <= self._startable_count:
                    return True
                try:
                    answers = self._send_batch(part, clear, self._flushed_count + 1)
                except redis.RedisError as error:
                    self._back_off(error)
                    return False
                self._backoff, self._refused_since = 0.0, None
                self._confirm_batch(part, answers)

    def _get_next_batch(self) -> list[PendingReport]:
        """Return the reports that the next call to Redis carries."""
        owed = self._pending_reports[:_FLUSH_BATCH_SIZE]
        sizes = itertools.accumulate(len(each.data) for each in owed)
        return owed[: 1 + sum(size <= _MAX_FLUSH_CHARACTERS for size in sizes)]

    def flush_before_exit(self, timeout: float) -> bool:
        """Settle before the worker ends, insisting for up to `timeout` seconds. Raises `Fenced`."""
        deadline = self._clock.monotonic() + timeout
        while not self.flush():
            if self._clock.monotonic() > deadline:
                logger.error("reports_not_delivered", count=len(self._pending_reports))
                return False
            self._clock.wait(threading.Event(), _MIN_BACKOFF_SECONDS)
        return True

    def _send_batch(self, batch: list[PendingReport], startable: int = 0, number: int = 0) -> list[str]:
        self._flushed_at = self._clock.monotonic()
        if self._client is None:
            self._client = self._connect()
            self._script = self._client.register_script(FLUSH)
        last = self.prefetched[startable - 1].tag if startable > self._startable_count else ""
        arguments: list[Any] = [self.worker, keys.RUNNING_TTL, keys.FINISHED_TTL, last, number]
        for owed in batch:
            arguments += (owed.operation, owed.tag, owed.execution, owed.attempt, owed.kind, owed.data)
        names = [keys.FENCE.format(worker=self.worker), keys.INFLIGHT.format(worker=self.worker), keys.EVENTS]
        answers: list[str] = self._script(keys=names, args=arguments)
        if answers == ["fenced"]:
            self.end_fenced_worker()
        self._startable_count = max(self._startable_count, startable)
        return answers

    def _add_report(self, report: PendingReport) -> None:
        self._pending_reports.append(report)
        self._request_flush()

    def _request_flush(self) -> None:
        """There is something to settle."""
        if self.call_soon:
            self.call_soon()
        else:
            self.flush()

    def _back_off(self, error: redis.RedisError) -> None:
        now = self._clock.monotonic()
        self._flushed_at = now
        self._refused_since = now if self._refused_since is None else self._refused_since
        self._backoff = min(self._backoff * 2 or _MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS)
        logger.warning(
            "redis_takes_no_reports", error=str(error), owed=len(self._pending_reports), next_try_in=self._backoff
        )

    def _confirm_batch(self, batch: list[PendingReport], answers: list[str]) -> None:
        del self._pending_reports[: len(batch)]
        self._flushed_count += len(batch)
        for owed, answer in zip(batch, answers, strict=True):
            if answer == ClaimResult.STALE:
                logger.warning("report_refused", execution=owed.execution, attempt=owed.attempt, why=answer)
            if owed.callback:
                owed.callback()

    def _release(self, tag: str) -> None:
        if tag in self.delivered:
            del self.delivered[tag]
            self.prefetch_estimator.record_ended()


def _do_nothing() -> None:
    """Nobody consumes."""
