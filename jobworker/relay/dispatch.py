"""Dispatch of ready executions: the last steps of a turn check limits, publish messages and mark them as published."""

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import redis
import sqlalchemy as sa
import structlog
from cachetools import LRUCache, TTLCache

from jobworker.clock import Clock
from jobworker.domain.executions.events import EventKind
from jobworker.relay.event_recorder import ClaimedMessage, DeclinedMessage
from jobworker.relay.message_builder import MessageBuilder
from jobworker.relay.problems import RelayProblems
from jobworker.relay.selection import DispatchCandidate, DispatchSelector
from jobworker.services.workflows import resolution
from jobworker.store import queues, relay_state, unreadable_rows
from jobworker.store.database.database import Database
from jobworker.store.executions import cancellation, dispatch, history, limit_usage
from jobworker.store.executions.dispatch import PublishedExecution, ReadyExecution
from jobworker.store.queues import PausedQueue
from jobworker.store.workers import WorkerRow
from jobworker.store.workflows import dependency_rows
from jobworker.telemetry.log_once import ProblemDeduplicator
from jobworker.transport.claims import ClaimResult, Claims
from jobworker.transport.publisher import Message, Publisher, get_list_name, get_list_names

logger = structlog.get_logger(__name__)

#: Maximum number of cancellations, and of lost messages, that one turn handles.
_BATCH_SIZE = 1000

#: Maximum number of cached lists and queues. Each can be looked up again.
_CACHE_SIZE = 10_000

#: Time for which executions of an unreadable revision are excluded before one is tried again (s), and maximum number of
#: such revisions: executions of further ones take up places in each round.
_UNREADABLE_RETRY_SECONDS, _MAX_UNREADABLE_REVISIONS = 30.0, 1000

#: Interval between checks of paused queues in which SQL knows of no message (s), and maximum number of queues per
#: check.
_PAUSED_CHECK_INTERVAL_SECONDS, _PAUSED_BATCH_SIZE = 1.0, 100

#: After Redis was full, each round increases the feed by its current value divided by this number, plus one.
_FEED_GROWTH_DIVISOR = 10


@dataclass(slots=True)
class Dispatcher:
    """Publishes the messages of ready executions.

    `relay_name` is this relay's name, `workers` the live workers (kept current by `Maintenance`). `is_limited` states
    whether a concurrency or rate limit blocked an execution, `next_permit_at` when a rate limit admits the next one.
    """

    database: Database
    publisher: Publisher
    claims: Claims
    clock: Clock
    feed: int
    relay_name: str
    ageing: dt.timedelta
    problems: RelayProblems
    workers: Sequence[WorkerRow] = ()
    has_undecided_revocations: bool = False
    is_limited: bool = False
    next_permit_at: dt.datetime | None = None
    _selector: DispatchSelector = field(init=False)
    _message_builder: MessageBuilder = field(default_factory=MessageBuilder)
    _last_claimed_at: LRUCache[str, dt.datetime] = field(default_factory=lambda: LRUCache(_CACHE_SIZE))
    _declined_attempts: dict[str, int] = field(default_factory=dict)
    _unreadable_executions: list[tuple[ReadyExecution, str]] = field(default_factory=list)
    _warnings: ProblemDeduplicator = field(default_factory=ProblemDeduplicator)
    _unreadable_revisions: TTLCache[str, None] = field(init=False)
    _foreign_message_counts: LRUCache[PausedQueue, int] = field(default_factory=lambda: LRUCache(_CACHE_SIZE))
    _paused_check_at: float = float("-inf")
    _paused_cursor: str = ""

    def __post_init__(self) -> None:
        self._selector = DispatchSelector(self.feed, self.ageing)
        self._unreadable_revisions = TTLCache(
            _MAX_UNREADABLE_REVISIONS, _UNREADABLE_RETRY_SECONDS, timer=self.clock.monotonic
        )

    def dispatch(self) -> int:
        """Publish the messages of executions that may run, mark these as published, and return their number.

        Raises `redis.RedisError`; `republish_lost_messages` then finds executions that were marked and not published.
        If Redis is full, the messages waiting there return to SQL, because workers need the memory for their reports.
        """
        consumed = {name for worker in self.workers for name in worker.queues}
        with self.database.read() as connection:
            paused = self._find_paused_queues(connection)
            waiting = queues.find_ready(connection, consumed)
        depths = self._get_queue_lengths([*(queue.name for queue in paused), *(queue.name for queue in waiting)])
        self._withdraw_paused(paused, depths)
        if not waiting:
            self.is_limited, self.next_permit_at = False, None
            return 0
        with self.database.read() as connection:
            selected = self._selector.select(
                connection, waiting, depths, self.workers, self.clock.now(), list(self._unreadable_revisions)
            )
            messages = self._build_messages(connection, selected.candidates)
        self._fail_unreadable_executions()
        self.is_limited, self.next_permit_at = selected.is_limited, selected.next_permit_at
        chosen = [candidate for candidate in selected.candidates if candidate.row.id in messages]
        limited = [candidate for candidate in chosen if candidate.row.limit_key is not None]
        if limited and not self._acquire_slots(limited, selected.buckets):
            return 0
        if messages:
            self._publish(messages.values(), [queue.name for queue in waiting])
        free = [candidate for candidate in chosen if candidate.row.limit_key is None]
        if free:
            with self.database.write() as connection:
                dispatch.mark_published(connection, [candidate.publication for candidate in free], self.clock.now())
        return len(messages)

    def _publish(self, messages: Iterable[Message], queues: Sequence[str]) -> None:
        try:
            self.publisher.publish(messages)
        except redis.OutOfMemoryError:
            self._selector.feed = max(1, self._selector.feed // 2)
            withdrawn = self.withdraw_messages([name for queue in queues for name in get_list_names(queue)])
            logger.warning("redis_full", messages_taken_back=withdrawn, feed=self._selector.feed)
            raise
        self._selector.feed = min(self.feed, self._selector.feed + self._selector.feed // _FEED_GROWTH_DIVISOR + 1)

    def _get_queue_lengths(self, queues: Sequence[str]) -> dict[str, int]:
        """Return how many messages wait per list; a key that is not a list counts as full, so that it gets none."""
        depths = self.publisher.get_depths(queues)
        for name, depth in depths.items():
            if depth is None:
                why = "it holds no list, so nothing can be published to this queue: another program uses its name"
                self.problems.report("redis_key_unusable", f"redis key {name!r}", why)
        return {name: self.feed if depth is None else depth for name, depth in depths.items()}

    def _acquire_slots(self, limited: Sequence[DispatchCandidate], buckets: Mapping[str, dt.datetime]) -> bool:
        """Mark limited executions as published before a worker can start them.

        Returns False if another relay leads, which then counts the slots itself.
        """
        with self.database.write() as connection:
            if not relay_state.is_leader(connection, self.relay_name):
                return False
            dispatch.mark_published(connection, [candidate.publication for candidate in limited], self.clock.now())
            limit_usage.upsert_rate_buckets(connection, buckets)
        return True

    def _find_paused_queues(self, connection: sa.Connection) -> set[PausedQueue]:
        """Return paused queues that may hold JobWorker's messages.

        They are those known to SQL and, periodically, some of the others: Redis may hold the message of a direct call
        before SQL knows of the call.
        """
        if not queues.has_paused(connection):
            return set()
        paused = set(queues.list_paused_published(connection))
        if self.clock.monotonic() >= self._paused_check_at:
            self._paused_check_at = self.clock.monotonic() + _PAUSED_CHECK_INTERVAL_SECONDS
            some_paused = queues.list_paused_after(connection, self._paused_cursor, _PAUSED_BATCH_SIZE)
            self._paused_cursor = some_paused[-1].name if len(some_paused) == _PAUSED_BATCH_SIZE else ""
            paused.update(some_paused)
        return paused

    def _withdraw_paused(self, paused: Collection[PausedQueue], depths: Mapping[str, int]) -> None:
        """Withdraw the messages of paused queues from Redis."""
        for queue in paused:
            lists = get_list_names(queue.name)
            waiting = sum(depths[name] for name in lists)
            # Foreign messages stay in the list; a list that holds nothing else is not scanned again.
            if self._foreign_message_counts.get(queue, 0) != waiting:
                self._foreign_message_counts[queue] = waiting - self.withdraw_messages(lists)

    def withdraw_messages(self, lists: Sequence[str]) -> int:
        """Withdraw JobWorker's messages from these lists, mark their executions as ready, and return their number."""
        messages = self.claims.withdraw(lists)
        if messages:
            with self.database.write() as connection:
                dispatch.mark_unpublished(connection, messages)
        return len(messages)

    def withdraw_aged_messages(self) -> None:
        """Withdraw messages that waited for long in a list while a more urgent list of their queue is not empty."""
        with self.database.read() as connection:
            waiting = dispatch.list_published_before(connection, self.clock.now() - self.ageing, _BATCH_SIZE)
        if not waiting:
            return
        depths = self._get_queue_lengths(sorted({row.queue for row in waiting}))
        for queue, name in sorted({(row.queue, get_list_name(row.queue, row.urgency)) for row in waiting}):
            above = get_list_names(queue)[: get_list_names(queue).index(name)]
            if depths[name] and any(depths[list_name] for list_name in above):
                self.withdraw_messages([name])

    def cancel_queued(self) -> int:
        """Carry out requests to cancel queued executions, and return how many were revoked in Redis.

        `has_undecided_revocations` is True afterwards if a worker has fetched a message that it may start or return:
        call this method again soon.
        """
        with self.database.read() as connection:
            rows = cancellation.list_queued_cancel_requests(connection, _BATCH_SIZE)
        results = self.claims.revoke([(row.id, row.attempt + 1) for row in rows])
        self.has_undecided_revocations = ClaimResult.RUNNING in results
        revoked = [row for row, result in zip(rows, results, strict=True) if result is ClaimResult.REVOKED]
        if revoked:
            now = self.clock.now()
            with self.database.write() as connection:
                cancellation.cancel_revoked(connection, revoked, now)
                resolution.resolve_dependents(
                    connection, dependency_rows.find_ended(connection, [row.id for row in revoked]), now
                )
        return len(revoked)

    def record_claims(self, claimed: Iterable[ClaimedMessage]) -> None:
        """Record the latest dispatch time that was claimed from each list."""
        for claim in claimed:
            name = get_list_name(claim.queue, claim.urgency)
            self._last_claimed_at[name] = max(claim.dispatched_at, self._last_claimed_at.get(name, claim.dispatched_at))

    def record_declined_messages(self, declined: Iterable[DeclinedMessage]) -> None:
        """Record messages that a worker without their task declined; log a warning once per worker and task."""
        for message in declined:
            self._declined_attempts[message.execution] = max(
                message.attempt, self._declined_attempts.get(message.execution, 0)
            )
            if self._warnings.add(f"declined {message.task} {message.worker}"):
                logger.warning("task_declined", task=message.task, worker=message.worker, execution=message.execution)

    def republish_declined_messages(self) -> None:
        """Mark declined messages for another publication.

        `republish_lost_messages` finds those that a dead relay has forgotten.
        """
        if self._declined_attempts:
            with self.database.write() as connection:
                dispatch.mark_unpublished(connection, self._declined_attempts.items())
            self._declined_attempts = {}

    def republish_lost_messages(self, published_before: dt.datetime) -> int:
        """Find messages that Redis or a worker lost, mark them for another publication, and return their number."""
        with self.database.read() as connection:
            unclaimed = dispatch.list_published_before(connection, published_before, _BATCH_SIZE)
        if not unclaimed:
            return 0
        depths = self._get_queue_lengths(sorted({row.queue for row in unclaimed}))
        lost = [row for row in unclaimed if self._is_lost(row, depths)]
        if lost:
            logger.warning("messages_lost", count=len(lost), example=lost[0].id)
            self._republish(lost)
        return len(lost)

    def _republish(self, lost: Sequence[PublishedExecution]) -> None:
        """Republish limited executions at once without releasing their slots, because they may be running unnoticed."""
        placed = {row.id: row for row in lost if row.limit_key is not None}
        with self.database.read() as connection:
            rows = dispatch.get_many(connection, list(placed))
            messages = self._build_messages(
                connection, [DispatchCandidate(row, placed[row.id].urgency) for row in rows]
            )
        self._fail_unreadable_executions()
        if messages:
            self.publisher.publish(messages.values())
        with self.database.write() as connection:
            dispatch.update_dispatched_at(connection, placed.values(), self.clock.now())
            dispatch.update_dispatched_at(connection, [row for row in lost if row.limit_key is None])

    def _is_lost(self, row: PublishedExecution, depths: dict[str, int]) -> bool:
        """Return whether the list of the message is empty, or a message published later to the list was claimed."""
        name = get_list_name(row.queue, row.urgency)
        overtaken = name in self._last_claimed_at and self._last_claimed_at[name] > row.dispatched_at
        return depths[name] == 0 or overtaken

    def _build_messages(self, connection: sa.Connection, chosen: Iterable[DispatchCandidate]) -> dict[str, Message]:
        """Return the messages by execution, without those of unreadable executions.

        An execution whose own row is unreadable is added to `_unreadable_executions`. An execution whose definition is
        unreadable stays ready, and its revision is excluded from selection for a while: otherwise such executions would
        take all places of a round.
        """
        messages = {}
        for candidate in chosen:
            try:
                dispatch.check_columns(candidate.row)
            except TypeError as error:
                self._unreadable_executions.append(
                    (candidate.row, f"it cannot be dispatched: in its row in the database {error}")
                )
                continue
            try:
                messages[candidate.row.id] = self._message_builder.build(connection, candidate.row, candidate.urgency)
            except unreadable_rows.READ_ERRORS as error:
                self._unreadable_revisions[
                    limit_usage.format_revision_key(candidate.row.job, candidate.row.job_revision)
                ] = None
                revision = f"revision {candidate.row.job_revision} of job {candidate.row.job}"
                self.problems.report("revision_unreadable", revision, f"executions of it cannot be dispatched: {error}")
        return messages

    def _fail_unreadable_executions(self) -> None:
        """Report, as a worker would, that the next attempts cannot run; otherwise they would be selected forever."""
        refused, self._unreadable_executions = self._unreadable_executions, []
        for row, why in refused:
            self.problems.report("execution_unreadable", f"execution {row.id}", why)
            attempt: object = row.attempt
            if not isinstance(attempt, int):
                with self.database.write() as connection:
                    attempt = history.restore_attempt(connection, row.id)
            error = {"type": "MessageRejected", "message": why, "traceback": None}
            self.claims.abandon(row.id, attempt + 1, {"reason": why, "error": error}, EventKind.REJECTED)
