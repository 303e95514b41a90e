"""Messages in flight: fetched by this worker and not acknowledged, even if its connections are lost."""

import collections
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from jobworker.clock import Clock
from jobworker.domain.executions.events import EventKind
from jobworker.transport.broker.prefetch import MAX_PREFETCH, PrefetchEstimator
from jobworker.transport.broker.report_outbox import FLUSH_INTERVAL_SECONDS, PendingReport, ReportOutbox
from jobworker.transport.claims import Claim, ClaimResult

#: The execution and attempt in a message of the relay; `attempt_of` in the scripts reads them by the same rule.
_ATTEMPT_PATTERN = re.compile(rb'{"headers":{"jobworker":{"execution":"([A-Za-z0-9-]+)","attempt":(\d+),')

#: Time in which a prefetched message has to start (s); later it returns to its queue, for another worker or so that a
#: more urgent job overtakes it.
_PREFETCH_TIMEOUT_SECONDS = 0.2


class FetchedMessage(NamedTuple):
    """A message in this worker's in-flight hash; `claim` if it is an attempt of an execution."""

    tag: str
    queue: str
    message: bytes
    claim: Claim | None
    fetched_at: float


class InFlight:
    """Messages of one worker from fetch to acknowledgement. Belongs to the event loop, except for the reports.

    A message is prefetched until Celery gets it, delivered until it has ended, then a report in the outbox.
    """

    def __init__(self, outbox: ReportOutbox, code_version: str, clock: Clock) -> None:
        self.outbox = outbox
        self.worker = outbox.worker
        #: Messages that Celery does not have; the first `_startable_count` of them may start.
        self.prefetched: collections.deque[FetchedMessage] = collections.deque()
        #: Messages that Celery has, by tag.
        self.delivered: dict[str, Claim | None] = {}
        self.prefetch_estimator = PrefetchEstimator()
        #: Deliver to Celery the messages that may start, and return how many it would take; set by the consumer.
        self.deliver_ready: Callable[[], None] = _do_nothing
        self.get_credit: Callable[[], int] = int  # 0 without a consumer.
        self._startable_count = 0
        self._clock = clock
        # The data of a `running` event, before and after the tag.
        self._running_data = (
            f'{{"worker":{json.dumps(self.worker)},"code_version":{json.dumps(code_version)},"token":"',
            '"}',
        )
        self._next_tag = 1
        outbox.start_queue = self

    # --- messages ---------------------------------------------------------------------------------------------

    def allocate_tags(self, count: int = 0) -> int:
        """Reserve `count` tags that were never used before; return the first."""
        first = self._next_tag
        self._next_tag += count
        return first

    def add_fetched(self, entries: Iterable[tuple[str, str, bytes]], startable: int = 0) -> None:
        """Add (tag, queue, message) of the in-flight hash; `startable` of them, and all before them, may start."""
        now = self._clock.monotonic()
        before = len(self.prefetched)
        for tag, queue, message in entries:
            claim = parse_claim_from_message(message, self.worker, tag)
            self.prefetched.append(FetchedMessage(tag, queue, message, claim, now))
        if startable:
            self._startable_count = min(before + startable, len(self.prefetched))
        if self._startable_count < len(self.prefetched):
            self.outbox.request_flush()

    def add_adopted(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        """Add (tag, queue, message) of messages that were fetched before those that are prefetched now."""
        later, self.prefetched, self._startable_count = self.prefetched, collections.deque(), 0
        self.add_fetched(entries)
        self.prefetched.extend(later)

    def pop_startable(self) -> FetchedMessage | None:
        """Remove the next message that may start and return it; it counts as delivered to Celery."""
        if not self._startable_count or self.outbox.is_overdue():
            return None
        self._startable_count -= 1
        fetched = self.prefetched.popleft()
        self.delivered[fetched.tag] = fetched.claim
        return fetched

    def compute_fetch_size(self) -> int:
        """Return how many messages to fetch."""
        if self.outbox.is_overdue():
            return 0
        ahead = self.prefetch_estimator.estimate_prefetch(self._clock.monotonic())
        size = min(MAX_PREFETCH, self.get_credit() + ahead - len(self.prefetched))
        # In batches, instead of a call for each message that started.
        return size if size > 0 and (not self.prefetched or size >= ahead // 2) else 0

    def estimate_startable(self) -> int:
        """Return how many messages may start before the next flush."""
        starts = self.prefetch_estimator.estimate_starts(self._clock.monotonic(), FLUSH_INTERVAL_SECONDS)
        return self.get_credit() + starts

    def get_tags(self) -> set[str]:
        """Return the tags of all messages that are not acknowledged in Redis."""
        pending = {report.tag for report in self.outbox.list_pending()}
        return {fetched.tag for fetched in self.prefetched} | set(self.delivered) | pending

    def is_empty(self) -> bool:
        """Return whether this worker has neither messages nor pending reports."""
        return not (self.prefetched or self.delivered or self.outbox.list_pending())

    def requeue_late(self) -> None:
        """Return prefetched messages that did not start in time to their queues."""
        if self.prefetched and self._clock.monotonic() - self.prefetched[0].fetched_at > _PREFETCH_TIMEOUT_SECONDS:
            self.prefetch_estimator.reset()
            self.requeue_prefetched()

    def requeue_prefetched(self) -> None:
        """Return all prefetched messages to their queues, the last fetched first."""
        self._startable_count = 0
        while self.prefetched:
            fetched = self.prefetched.pop()
            self.delivered[fetched.tag] = fetched.claim
            self.requeue(fetched.tag)

    def requeue_all(self) -> None:
        """Return all unfinished messages because the worker stops; delivered attempts are reported as interrupted."""
        self.requeue_prefetched()
        for tag, claim in list(self.delivered.items()):
            if claim:
                data = {"worker": claim.worker, "token": tag, "reason": "its worker was shut down"}
                self.report_ended(claim, EventKind.INTERRUPTED, json.dumps(data))
            else:
                self.requeue(tag)

    def list_claims(self) -> list[Claim]:
        """Return the attempts that run here, may start at any moment, or whose end Redis does not have."""
        prefetched = [fetched.claim for fetched in list(self.prefetched)]
        # Without the last ones an attempt would count as lost, and run again, while a full Redis refuses its end.
        ends = [report for report in self.outbox.list_pending() if report.operation == "end"]
        ended = [Claim(report.execution, report.attempt, self.worker, report.tag) for report in ends]
        return [claim for claim in [*self.delivered.values(), *prefetched, *ended] if claim]

    # --- starts, as the outbox announces them -----------------------------------------------------------------

    def plan_starts(self) -> int:
        """Return how many prefetched messages may start before the next flush."""
        return min(len(self.prefetched), self.estimate_startable())

    def get_start_tag(self, count: int) -> str:
        """Return the tag of the last of the first `count` messages; "" if Redis knows of their start already."""
        return self.prefetched[count - 1].tag if count > self._startable_count else ""

    def confirm_starts(self, count: int) -> None:
        """Let the first `count` prefetched messages start."""
        self._startable_count = max(self._startable_count, count)

    def is_starved(self) -> bool:
        """Return whether messages are prefetched and Celery has credit, but none may start."""
        return bool(self.prefetched) and not self._startable_count and self.get_credit() > 0

    def is_high_rate(self) -> bool:
        """Return whether many jobs end at present."""
        return self.prefetch_estimator.is_high_rate()

    # --- reports ----------------------------------------------------------------------------------------------

    def can_start(self, claim: Claim) -> bool:
        """Return whether the attempt may start: it was claimed when its message was fetched."""
        return self.delivered.get(claim.token) == claim

    def claim(self, claim: Claim) -> ClaimResult:
        """Claim an attempt whose message was not fetched by the script. Raises `redis.RedisError`, `WorkerFenced`."""
        result = self.outbox.claim(PendingReport("claim", claim.token, claim.execution, claim.attempt))
        if result is ClaimResult.RUN:
            self.delivered[claim.token] = claim
        return result

    def report_direct_call(self, claim: Claim, data: str) -> None:
        """Report that the attempt belongs to a direct call; precedes all other reports about it."""
        self._add("tell", claim, EventKind.CALLED, data)

    def report_started(self, claim: Claim) -> None:
        """Report that a process or thread has started the attempt."""
        self._add("tell", claim, EventKind.RUNNING, claim.token.join(self._running_data))

    def report_ended(self, claim: Claim, kind: str, data: str, callback: Callable[[], None] | None = None) -> None:
        """Report the end of the attempt, `data` as JSON, and acknowledge it; `callback` is called once Redis has it."""
        self._release(claim.token)
        self._add("end", claim, kind, data, callback)

    def report_refused(self, claim: Claim, kind: str, data: str) -> None:
        """Report that the attempt cannot start on this worker; another worker may try it."""
        self._release(claim.token)
        self._add("refuse", claim, kind, data)

    def acknowledge(self, tag: str, kind: str | None = None, data: str = "{}") -> None:
        """Acknowledge a message that is no attempt, or a duplicate; `kind` is that of the event, if there is one."""
        if tag in self.delivered or kind:
            self._release(tag)
            self.outbox.add(PendingReport("done", tag, kind=kind or "", data=data))

    def reject(self, tag: str, headers: Any, error: Exception, reason: str, queue: str | None) -> None:
        """Report a message that cannot become an attempt, and acknowledge it."""
        # The job has raised nothing, so the error is not one of the job's exceptions.
        why = f"{reason}: {type(error).__name__}: {error}"[:1000]
        details = {"type": "MessageRejected", "message": why, "traceback": None}
        claim = parse_claim(headers, self.worker, tag)
        if claim:
            data = {"worker": claim.worker, "token": tag, "reason": reason, "error": details}
            self.report_ended(claim, EventKind.REJECTED, json.dumps(data))
        else:
            readable = headers if isinstance(headers, dict) else {}
            ids = {"message": readable.get("id"), "task": readable.get("task"), "queue": queue}
            about = json.dumps({**ids, "reason": reason, "error": details}, default=str)
            self.acknowledge(tag, EventKind.REJECTED, about)

    def requeue(self, tag: str) -> None:
        """Return a message that was not started to the front of its queue."""
        if tag in self.delivered:
            claim = self.delivered.pop(tag)
            execution, attempt = (claim.execution, claim.attempt) if claim else ("", 0)
            self.outbox.add(PendingReport("back", tag, execution, attempt))

    def _add(
        self, operation: str, claim: Claim, kind: str, data: str, callback: Callable[[], None] | None = None
    ) -> None:
        self.outbox.add(PendingReport(operation, claim.token, claim.execution, claim.attempt, kind, data, callback))

    def _release(self, tag: str) -> None:
        if tag in self.delivered:
            del self.delivered[tag]
            self.prefetch_estimator.record_ended()


def parse_claim(headers: Any, worker: str, tag: str) -> Claim | None:
    """Return the attempt in a message's headers; None if the relay did not send the message."""
    header = headers.get("jobworker") if isinstance(headers, dict) else None
    if not isinstance(header, dict):
        return None
    execution, attempt = header.get("execution"), header.get("attempt")
    return Claim(execution, attempt, worker, tag) if isinstance(execution, str) and isinstance(attempt, int) else None


def parse_claim_from_message(message: bytes, worker: str, tag: str) -> Claim | None:
    """Return the attempt in a serialized message, by the rule of the scripts; None if they did not claim it."""
    match = _ATTEMPT_PATTERN.match(message)
    return Claim(match[1].decode(), int(match[2]), worker, tag) if match else None


def _do_nothing() -> None:
    """Stand in for the consumer before it is set."""
