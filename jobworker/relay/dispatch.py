"""The last steps of a turn: what may run now is gated, published, and then marked as published."""

import datetime as dt
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
import sqlalchemy as sa
import structlog
from cachetools import LRUCache, TTLCache

from jobworker.clock import Clock
from jobworker.domain.executions import worker_loss
from jobworker.domain.executions.events import EventKind
from jobworker.domain.executions.execution import count_used_retries
from jobworker.domain.jobs import policies
from jobworker.domain.jobs.definition import JobDefinition
from jobworker.relay.event_recorder import ClaimedMessage, DeclinedMessage
from jobworker.relay.problems import RelayProblems
from jobworker.relay.selection import DispatchCandidate, DispatchSelector
from jobworker.services.workflows import resolution
from jobworker.store import jobs, queues, relay_state, unreadable_rows
from jobworker.store.engine.database import Database
from jobworker.store.executions import cancellation, dependency_rows, dispatch, history, limit_usage
from jobworker.store.executions.dispatch import PublishedExecution, ReadyExecution
from jobworker.store.queues import PausedQueue
from jobworker.store.workers import WorkerRow
from jobworker.telemetry.once import ProblemDeduplicator
from jobworker.transport.claims import ClaimResult, Claims
from jobworker.transport.publisher import Message, Publisher, get_list_name, get_list_names

logger = structlog.get_logger(__name__)

#: Cancellations and lost messages that one turn settles.
_BATCH_SIZE = 1000

#: Revisions, lists and queues that are remembered. Each can be looked up again.
_CACHE_SIZE = 10_000

#: How long (s) executions of a revision that cannot be read are passed over before one is tried again, and how many
#: revisions: those beyond keep places in each round.
_UNREADABLE_RETRY_SECONDS, _MAX_UNREADABLE_REVISIONS = 30.0, 1000

#: How often is looked into paused queues in which SQL knows of no message (s), and into how many at a time.
_PAUSED_CHECK_INTERVAL_SECONDS, _PAUSED_BATCH_SIZE = 1.0, 100

#: After Redis was full, the feed grows again by one in so many each round.
_FEED_GROWTH_DIVISOR = 10


@dataclass(slots=True)
class Dispatcher:
    """Turns rows that are due into messages.

    `name` is the relay's, `workers` is who is alive (kept current by the watch). `held_up` says whether something had
    to wait for a place or a rate, `next_permit` when a rate lets something through again.
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
    _definitions: LRUCache[tuple[str, int], JobDefinition | None] = field(default_factory=lambda: LRUCache(_CACHE_SIZE))
    _policies_json: LRUCache[tuple[str, int], str] = field(default_factory=lambda: LRUCache(_CACHE_SIZE))
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
        """Publish what may run, mark it; return how many.

        Raises `redis.RedisError`; then `mend` finds what was marked and not published. If Redis is full, what waits
        there goes back to SQL: messages must not take the room that workers need for their reports.
        """
        consumed = {name for worker in self.workers for name in worker.queues}
        with self.database.read() as connection:
            paused = self._find_paused_queues(connection)
            waiting = queues.find_ready(connection, consumed)
        depths = self._depths([*(queue.name for queue in paused), *(queue.name for queue in waiting)])
        self._withdraw_paused(paused, depths)
        if not waiting:
            self.is_limited, self.next_permit_at = False, None
            return 0
        with self.database.read() as connection:
            round = self._selector.select(
                connection, waiting, depths, self.workers, self.clock.now(), list(self._unreadable_revisions)
            )
            messages = self._build_messages(connection, round.candidates)
        self._fail_unreadable_executions()
        self.is_limited, self.next_permit_at = round.is_limited, round.next_permit_at
        chosen = [one for one in round.candidates if one.row.id in messages]
        limited = [one for one in chosen if one.row.limit_key is not None]
        if limited and not self._acquire_slots(limited, round.buckets):
            return 0
        if messages:
            self._publish(messages.values(), [queue.name for queue in waiting])
        free = [one for one in chosen if one.row.limit_key is None]
        if free:
            with self.database.write() as connection:
                dispatch.mark_published(connection, [one.publication for one in free], self.clock.now())
        return len(messages)

    def _publish(self, messages: Iterable[Message], queues: Sequence[str]) -> None:
        try:
            self.publisher.publish(messages)
        except redis.OutOfMemoryError:
            self._selector.feed = max(1, self._selector.feed // 2)
            taken = self.withdraw_messages([name for queue in queues for name in get_list_names(queue)])
            logger.warning("redis_full", messages_taken_back=taken, feed=self._selector.feed)
            raise
        self._selector.feed = min(self.feed, self._selector.feed + self._selector.feed // _FEED_GROWTH_DIVISOR + 1)

    def _depths(self, queues: Sequence[str]) -> dict[str, int]:
        """Return how many messages wait per list; a key that is no list takes none, and counts as full."""
        depths = self.publisher.get_depths(queues)
        for name, depth in depths.items():
            if depth is None:
                why = "it holds no list, so nothing can be published to this queue: another program uses its name"
                self.problems.report("redis_key_unusable", f"redis key {name!r}", why)
        return {name: self.feed if depth is None else depth for name, depth in depths.items()}

    def _acquire_slots(self, limited: Sequence[DispatchCandidate], buckets: Mapping[str, dt.datetime]) -> bool:
        """Mark what is under limits before anybody can start it; False: another relay leads and counts for itself."""
        with self.database.write() as connection:
            if not relay_state.is_leader(connection, self.relay_name):
                return False
            dispatch.mark_published(connection, [one.publication for one in limited], self.clock.now())
            limit_usage.upsert_rate_buckets(connection, buckets)
        return True

    def _find_paused_queues(self, connection: sa.Connection) -> set[PausedQueue]:
        """Paused queues in which our messages may lie: those that SQL knows of, and now and then some of the others.

        What is called from Python may be in Redis before SQL knows of it.
        """
        if not queues.has_paused(connection):
            return set()
        found = set(queues.list_paused_published(connection))
        if self.clock.monotonic() >= self._paused_check_at:
            self._paused_check_at = self.clock.monotonic() + _PAUSED_CHECK_INTERVAL_SECONDS
            others = queues.list_paused_after(connection, self._paused_cursor, _PAUSED_BATCH_SIZE)
            self._paused_cursor = others[-1].name if len(others) == _PAUSED_BATCH_SIZE else ""
            found.update(others)
        return found

    def _withdraw_paused(self, paused: Collection[PausedQueue], depths: Mapping[str, int]) -> None:
        """What lies in Redis for a paused queue goes back to SQL."""
        for queue in paused:
            lists = get_list_names(queue.name)
            waiting = sum(depths[name] for name in lists)
            # What is not ours stays there, and need not be looked at again and again.
            if self._foreign_message_counts.get(queue, 0) != waiting:
                self._foreign_message_counts[queue] = waiting - self.withdraw_messages(lists)

    def withdraw_messages(self, lists: Sequence[str]) -> int:
        """Take our messages out of these lists; their executions are ready once more. Answers how many there were."""
        messages = self.claims.withdraw(lists)
        if messages:
            with self.database.write() as connection:
                dispatch.mark_unpublished(connection, messages)
        return len(messages)

    def withdraw_aged_messages(self) -> None:
        """Take back what has waited for long in a list while a more urgent one of its queue is not empty."""
        with self.database.read() as connection:
            waiting = dispatch.list_published_before(connection, self.clock.now() - self.ageing, _BATCH_SIZE)
        if not waiting:
            return
        depths = self._depths(sorted({row.queue for row in waiting}))
        for queue, name in sorted({(row.queue, get_list_name(row.queue, row.urgency)) for row in waiting}):
            above = get_list_names(queue)[: get_list_names(queue).index(name)]
            if depths[name] and any(depths[each] for each in above):
                self.withdraw_messages([name])

    def cancel_queued(self) -> int:
        """Carry out requests to cancel what is queued: it cannot start any more once Redis has said so.

        `undecided` says afterwards whether a worker has some in hand that it may start or give back: ask again soon.
        """
        with self.database.read() as connection:
            asked = cancellation.list_queued_cancel_requests(connection, _BATCH_SIZE)
        answers = self.claims.revoke([(row.id, row.attempt + 1) for row in asked])
        self.has_undecided_revocations = ClaimResult.RUNNING in answers
        revoked = [row for row, answer in zip(asked, answers, strict=True) if answer is ClaimResult.REVOKED]
        if revoked:
            now = self.clock.now()
            with self.database.write() as connection:
                cancellation.cancel_revoked(connection, revoked, now)
                resolution.resolve_dependents(
                    connection, dependency_rows.find_ended(connection, [row.id for row in revoked]), now
                )
        return len(revoked)

    def record_claims(self, claimed: Iterable[ClaimedMessage]) -> None:
        """Remember how far each list has been worked off."""
        for claim in claimed:
            name = get_list_name(claim.queue, claim.urgency)
            self._last_claimed_at[name] = max(claim.dispatched_at, self._last_claimed_at.get(name, claim.dispatched_at))

    def record_declined_messages(self, declined: Iterable[DeclinedMessage]) -> None:
        """Remember messages that went to a worker without their task; warn once of each such worker and task."""
        for one in declined:
            self._declined_attempts[one.execution] = max(one.attempt, self._declined_attempts.get(one.execution, 0))
            if self._warnings.add(f"declined {one.task} {one.worker}"):
                logger.warning("task_declined", task=one.task, worker=one.worker, execution=one.execution)

    def republish_declined_messages(self) -> None:
        """Let messages that were declined be published again. What is forgotten when the relay dies, `mend` finds."""
        if self._declined_attempts:
            with self.database.write() as connection:
                dispatch.mark_unpublished(connection, self._declined_attempts.items())
            self._declined_attempts = {}

    def republish_lost_messages(self, published_before: dt.datetime) -> int:
        """Find messages that Redis or a worker lost on the way, so that they are published again."""
        with self.database.read() as connection:
            unclaimed = dispatch.list_published_before(connection, published_before, _BATCH_SIZE)
        if not unclaimed:
            return 0
        depths = self._depths(sorted({row.queue for row in unclaimed}))
        lost = [row for row in unclaimed if self._is_lost(row, depths)]
        if lost:
            logger.warning("messages_lost", count=len(lost), example=lost[0].id)
            self._republish(lost)
        return len(lost)

    def _republish(self, lost: Sequence[PublishedExecution]) -> None:
        """What is under limits goes out again at once and keeps its place: it may run, unheard of as yet."""
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
        """Its list is empty, or something that was published later has been claimed already."""
        name = get_list_name(row.queue, row.urgency)
        overtaken = name in self._last_claimed_at and self._last_claimed_at[name] > row.dispatched_at
        return depths[name] == 0 or overtaken

    def _build_messages(self, connection: sa.Connection, chosen: Iterable[DispatchCandidate]) -> dict[str, Message]:
        """Return the messages by execution, without those that cannot be read.

        An execution whose own row cannot be read goes to `_refused`. One whose definition cannot be read stays where it
        is, and others of this revision are not chosen for a while: they would take all places of a round.
        """
        messages = {}
        for one in chosen:
            try:
                dispatch.check_columns(one.row)
            except TypeError as error:
                self._unreadable_executions.append(
                    (one.row, f"it cannot be dispatched: in its row in the database {error}")
                )
                continue
            try:
                messages[one.row.id] = self._build_message(connection, one.row, one.urgency)
            except unreadable_rows.READ_ERRORS as error:
                self._unreadable_revisions[limit_usage.format_revision_key(one.row.job, one.row.job_revision)] = None
                what = f"revision {one.row.job_revision} of job {one.row.job}"
                self.problems.report("revision_unreadable", what, f"executions of it cannot be dispatched: {error}")
        return messages

    def _fail_unreadable_executions(self) -> None:
        """Report, as a worker would, that the next attempts cannot run; otherwise they would be chosen for ever."""
        refused, self._unreadable_executions = self._unreadable_executions, []
        for row, why in refused:
            self.problems.report("execution_unreadable", f"execution {row.id}", why)
            attempt: object = row.attempt
            if not isinstance(attempt, int):
                with self.database.write() as connection:
                    attempt = history.restore_attempt(connection, row.id)
            error = {"type": "MessageRejected", "message": why, "traceback": None}
            self.claims.abandon(row.id, attempt + 1, {"reason": why, "error": error}, EventKind.REJECTED)

    def _build_message(self, connection: sa.Connection, row: ReadyExecution, urgency: int) -> Message:
        definition = self._get_definition(connection, row)
        free = {*(row.lost_attempts or ()), *(row.interrupted_attempts or ()), *(row.snoozed_attempts or ())}
        return Message(
            execution=row.id,
            attempt=row.attempt + 1,
            job=row.job,
            revision=row.job_revision,
            task=row.task,
            queue=row.queue,
            priority=urgency,
            parameters=row.parameters,
            retries=count_used_retries(row.attempt + 1, len(free)),
            max_attempts=row.max_attempts,
            time_limit=_get_effective_value("time_limit", row, definition.time_limit if definition else None),
            soft_time_limit=_get_effective_value(
                "soft_time_limit", row, definition.soft_time_limit if definition else None
            ),
            policies=self._get_policies_json(row, definition),
            correlation_id=row.correlation_id,
            scheduled_for=row.scheduled_for,
            expires_at=row.expires_at if row.attempt == 0 else None,
            metadata=row.metadata,
            apart=worker_loss.is_own_process_required(row.lost_attempts),
            announce=definition is not None
            and worker_loss.is_announcement_required(definition.on_worker_lost, row.lost_attempts),
            call=row.call,
        )

    def _get_policies_json(self, row: ReadyExecution, definition: JobDefinition | None) -> str:
        if row.overrides is not None:
            return self._serialize_policies(row, {**(definition.policies if definition else {}), **row.overrides})
        key = (row.job, row.job_revision)
        if key not in self._policies_json:
            self._policies_json[key] = self._serialize_policies(row, definition.policies if definition else {})
        return self._policies_json[key]

    def _serialize_policies(self, row: ReadyExecution, raw_policies: Mapping[str, Any]) -> str:
        """As JSON. A policy that is wrong is left out: one job must not keep the others from going out."""
        made, problems = policies.normalize({name: raw_policies.get(name) for name in policies.WORKER_POLICIES})
        if problems and self._warnings.add(f"policies {row.job} {row.job_revision}"):
            told = "; ".join(f"{problem.pointer}: {problem.message}" for problem in problems)
            logger.error("policies_left_out", job=row.job, revision=row.job_revision, why=told)
        return json.dumps(policies.select_for_worker(made), separators=(",", ":"), sort_keys=True)

    def _get_definition(self, connection: sa.Connection, row: ReadyExecution) -> JobDefinition | None:
        # A revision never changes, so it can be kept for ever.
        key = (row.job, row.job_revision)
        if key not in self._definitions:
            self._definitions[key] = jobs.get_definition(connection, *key)
        return self._definitions[key]


def _get_effective_value(name: str, row: ReadyExecution, default: Any) -> Any:
    """What holds for this execution: what its submission said, or else its definition."""
    return (row.overrides or {}).get(name, default)
