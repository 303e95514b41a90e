"""The last steps of a turn: what may run now is gated, published, and then marked as published."""

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import structlog

from jobworker.clock import Clock
from jobworker.domain import gates, isolation, retry
from jobworker.domain.execution import retries_used
from jobworker.domain.job import Definition
from jobworker.relay.record import Claimed, Declined
from jobworker.store import dispatch, jobs, queues
from jobworker.store.database import Database
from jobworker.store.dispatch import Published, Ready
from jobworker.store.workers import WorkerRow
from jobworker.transport.claims import Answer, Claims
from jobworker.transport.publisher import Message, Publisher, list_name, lists_of

logger = structlog.get_logger(__name__)

#: Cancellations and lost messages that one turn settles.
_LIMIT = 1000


@dataclass(slots=True)
class Dispatcher:
    """Turns rows that are due into messages. `workers` is who is alive, kept current by the watch."""

    database: Database
    publisher: Publisher
    claims: Claims
    clock: Clock
    feed: int
    workers: Sequence[WorkerRow] = ()
    undecided: bool = False
    _definitions: dict[tuple[str, int], Definition | None] = field(default_factory=dict)
    _policies_sent: dict[tuple[str, int], str] = field(default_factory=dict)
    _claimed: dict[str, dt.datetime] = field(default_factory=dict)
    _declined: dict[str, int] = field(default_factory=dict)
    _warned: set[tuple[str, str]] = field(default_factory=set)

    def dispatch(self) -> int:
        """Publish what may run, mark it; answers how many. Raises `redis.RedisError` with nothing marked."""
        with self.database.read() as connection:
            names = queues.names(connection)
        room = self._room(names)
        with self.database.read() as connection:
            chosen = [row for name in names if room[name] > 0 for row in self._ready(connection, name, room[name])]
            messages = [self._message(connection, row) for row in chosen]
        if not messages:
            return 0
        self.publisher.publish(messages)
        with self.database.write() as connection:
            dispatch.mark_published(connection, [(row.id, row.attempt) for row in chosen], self.clock.now())
        return len(messages)

    def cancel(self) -> int:
        """Carry out requests to cancel what is queued: it cannot start any more once Redis has said so.

        `undecided` says afterwards whether a worker has some in hand that it may start or give back: ask again soon.
        """
        with self.database.read() as connection:
            asked = dispatch.cancel_asked(connection, _LIMIT)
        answers = [self.claims.revoke(row.id, row.attempt + 1) for row in asked]
        self.undecided = Answer.RUNNING in answers
        revoked = [row for row, answer in zip(asked, answers, strict=True) if answer is Answer.REVOKED]
        if revoked:
            with self.database.write() as connection:
                dispatch.cancel_revoked(connection, revoked, self.clock.now())
        return len(revoked)

    def note_claims(self, claimed: Iterable[Claimed]) -> None:
        """Remember how far each list has been worked off."""
        for claim in claimed:
            name = list_name(claim.queue, claim.priority)
            self._claimed[name] = max(claim.dispatched_at, self._claimed.get(name, claim.dispatched_at))

    def note_declined(self, declined: Iterable[Declined]) -> None:
        """Remember messages that went to a worker without their task; warn once of each such worker and task."""
        for one in declined:
            self._declined[one.execution] = max(one.attempt, self._declined.get(one.execution, 0))
            if (one.task, one.worker) not in self._warned:
                self._warned.add((one.task, one.worker))
                logger.warning("task_declined", task=one.task, worker=one.worker, execution=one.execution)

    def publish_declined(self) -> None:
        """Let messages that were declined be published again. What is forgotten when the relay dies, `mend` finds."""
        if self._declined:
            with self.database.write() as connection:
                dispatch.publish_declined(connection, self._declined)
            self._declined = {}

    def mend(self, older_than: dt.datetime) -> int:
        """Find messages that Redis or a worker lost on the way, so that they are published again."""
        with self.database.read() as connection:
            unclaimed = dispatch.published_before(connection, older_than, _LIMIT)
        if not unclaimed:
            return 0
        depths = self.publisher.depths(sorted({row.queue for row in unclaimed}))
        lost = [row for row in unclaimed if self._is_lost(row, depths)]
        if lost:
            logger.warning("messages_lost", count=len(lost), example=lost[0].id)
            with self.database.write() as connection:
                dispatch.publish_again(connection, lost)
        return len(lost)

    def _is_lost(self, row: Published, depths: dict[str, int]) -> bool:
        """Its list is empty, or something that was published later has been claimed already."""
        name = list_name(row.queue, row.priority)
        overtaken = name in self._claimed and self._claimed[name] > row.dispatched_at
        return depths[name] == 0 or overtaken

    def _room(self, names: Sequence[str]) -> dict[str, int]:
        depths = self.publisher.depths(names)
        return {name: self.feed - sum(depths[part] for part in lists_of(name)) for name in names}

    def _ready(self, connection: sa.Connection, queue: str, limit: int) -> list[Ready]:
        """The gate: only tasks that a live worker of this queue can run leave the database."""
        tasks = gates.runnable(queue, self.workers)
        return dispatch.ready(connection, queue, sorted(tasks), limit) if tasks else []

    def _message(self, connection: sa.Connection, row: Ready) -> Message:
        definition = self._definition(connection, row)
        free = {*(row.lost_attempts or ()), *(row.interrupted_attempts or ()), *(row.snoozed_attempts or ())}
        return Message(
            execution=row.id,
            attempt=row.attempt + 1,
            job=row.job,
            revision=row.job_revision,
            task=row.task,
            queue=row.queue,
            priority=row.priority,
            parameters=row.parameters,
            retries=retries_used(row.attempt + 1, len(free)),
            max_attempts=row.max_attempts,
            time_limit=_effective("time_limit", row, definition.time_limit if definition else None),
            soft_time_limit=_effective("soft_time_limit", row, definition.soft_time_limit if definition else None),
            policies=self._policies(row, definition),
            correlation_id=row.correlation_id,
            scheduled_for=row.scheduled_for,
            expires_at=row.expires_at if row.attempt == 0 else None,
            metadata=row.metadata,
        )

    def _policies(self, row: Ready, definition: Definition | None) -> str:
        if row.overrides is not None:
            return _for_worker({**(definition.policies if definition else {}), **row.overrides})
        key = (row.job, row.job_revision)
        if key not in self._policies_sent:
            self._policies_sent[key] = _for_worker(definition.policies if definition else {})
        return self._policies_sent[key]

    def _definition(self, connection: sa.Connection, row: Ready) -> Definition | None:
        # A revision never changes, so it can be kept for ever.
        key = (row.job, row.job_revision)
        if key not in self._definitions:
            self._definitions[key] = jobs.revision(connection, *key)
        return self._definitions[key]


def _effective(name: str, row: Ready, of_definition: Any) -> Any:
    """What holds for this execution: what its submission said, or else its definition."""
    return (row.overrides or {}).get(name, of_definition)


def _for_worker(policies: Mapping[str, Any]) -> str:
    """Those that a worker applies. Without a retry policy that decides, the task's own options do."""
    described = policies.get("retry")
    sent = {"retry": described} if described and retry.parse(described).decides else {}
    where = policies.get("isolation")
    if where and where["mode"] != isolation.Mode.IN_PROCESS:
        sent["isolation"] = where
    return json.dumps(sent, separators=(",", ":"), sort_keys=True)
