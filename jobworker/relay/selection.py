"""Selection of executions for dispatch: the most urgent of each queue within the limits, as far as its feed has space.

Feed space is counted by urgency: a message may be published if fewer than `feed` messages wait in its own list and in
the more urgent ones together, so urgent messages never wait for others. When feed space is short, one in ten messages
goes to an overtaken execution.
"""

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import sqlalchemy as sa
from cachetools import LRUCache

from jobworker.domain.executions import blockers
from jobworker.domain.executions.execution import PRIORITIES
from jobworker.relay.capacity import Capacity
from jobworker.relay.fair_queue import OVERTAKEN_SHARE, FairQueue, FairQueueItem, RoundRobinHistory
from jobworker.store.executions import dispatch, limit_usage
from jobworker.store.executions.dispatch import ReadyExecution
from jobworker.store.executions.limit_usage import LimitedExecution, QueueBacklog
from jobworker.store.queues import ReadyQueue as Waiting
from jobworker.store.workers import WorkerRow
from jobworker.transport.publisher import get_list_name, get_list_names

#: Maximum number of queues whose cursors and credits are remembered.
_MAX_QUEUES = 10_000

#: Maximum number of limit keys of a queue that one round reads; the next round continues after them.
_MAX_KEYS = 1000


class DispatchCandidate(NamedTuple):
    """An execution to publish, and the priority that determines its list."""

    row: ReadyExecution
    urgency: int

    @property
    def publication(self) -> tuple[str, int, int]:
        """The argument of `dispatch.mark_published`."""
        return self.row.id, self.row.attempt, self.urgency


@dataclass(frozen=True, slots=True)
class PriorityBand:
    """Consecutive priorities with equal feed space."""

    priorities: range
    available: int


@dataclass(slots=True)
class DispatchRound:
    """The result of one round: executions to publish, and rate buckets to store.

    `is_limited` states whether a limit blocked an execution, `next_permit_at` when a rate limit admits the next one.
    """

    candidates: list[DispatchCandidate] = field(default_factory=list)
    buckets: Mapping[str, dt.datetime] = field(default_factory=dict)
    is_limited: bool = False
    next_permit_at: dt.datetime | None = None


@dataclass(slots=True)
class DispatchSelector:
    """Selects executions round after round; its state only serves fairness, and may be lost."""

    feed: int
    ageing: dt.timedelta
    _history: RoundRobinHistory = field(default_factory=RoundRobinHistory)
    _key_cursors: LRUCache[str, str] = field(default_factory=lambda: LRUCache(_MAX_QUEUES))
    _overtaken_credit: LRUCache[str, int] = field(default_factory=lambda: LRUCache(_MAX_QUEUES))

    def select(
        self,
        connection: sa.Connection,
        ready_queues: Sequence[Waiting],
        depths: Mapping[str, int],
        workers: Sequence[WorkerRow],
        now: dt.datetime,
        excluded_revisions: Sequence[str] = (),
    ) -> DispatchRound:
        """Select the executions of one round from these queues; `depths` are the lengths of the lists in Redis.

        `excluded_revisions` names job revisions whose executions are not selected.
        """
        capacity = Capacity.load(connection, now) if any(queue.limited for queue in ready_queues) else None
        result = DispatchRound()
        for queue in ready_queues:
            tasks = sorted(blockers.find_runnable_tasks(queue.name, workers))
            bands = self._compute_bands(queue.name, depths)
            if tasks and bands[0].available > 0:
                backlog = QueueBacklog(queue.name, tasks, excluded_revisions)
                heads = self._read_heads(connection, backlog) if capacity and queue.limited else []
                fair_queue = (
                    self._build_fair_queue(connection, backlog, heads, capacity) if capacity and heads else None
                )
                result.candidates += self._select_from_queue(connection, backlog, bands, fair_queue, now)
                result.candidates += _load_unreadable(connection, heads)
        if capacity:
            result.buckets, result.is_limited, result.next_permit_at = (
                capacity.updated_buckets,
                capacity.is_limited,
                capacity.next_permit_at,
            )
        return result

    def _select_from_queue(
        self,
        connection: sa.Connection,
        backlog: QueueBacklog,
        bands: Sequence[PriorityBand],
        fair_queue: FairQueue | None,
        now: dt.datetime,
    ) -> list[DispatchCandidate]:
        chosen: list[DispatchCandidate | FairQueueItem] = []
        for band in bands:
            available = band.available - len(chosen)
            if available <= 0:
                break
            free = dispatch.list_ready(connection, backlog, available, band.priorities)
            chosen += itertools.islice(_merge_by_urgency(free, fair_queue, band.priorities.start), available)
        complete = _load_rows(connection, chosen)
        if len(complete) < bands[-1].available:
            return complete
        return complete + self._select_overtaken(connection, backlog, complete, now)

    def _select_overtaken(
        self, connection: sa.Connection, backlog: QueueBacklog, chosen: Sequence[DispatchCandidate], now: dt.datetime
    ) -> list[DispatchCandidate]:
        """Return overtaken executions to dispatch when a queue's feed space is used up.

        They exceed the feed, and reduce the space of the next round.
        """
        owed = self._overtaken_credit.get(backlog.queue, 0) + len(chosen)
        self._overtaken_credit[backlog.queue] = owed % OVERTAKEN_SHARE
        if owed < OVERTAKEN_SHARE or not chosen:
            return []
        urgency = chosen[-1].urgency
        overtaken = dispatch.list_overtaken(connection, backlog, urgency, now - self.ageing, owed // OVERTAKEN_SHARE)
        return [DispatchCandidate(row, urgency) for row in overtaken]

    def _compute_bands(self, queue: str, depths: Mapping[str, int]) -> list[PriorityBand]:
        """Return the priorities from the most urgent down, grouped by equal feed space."""
        names = get_list_names(queue)
        waiting = list(itertools.accumulate(depths[name] for name in names))
        room = {name: self.feed - count for name, count in zip(names, waiting, strict=True)}
        bands: list[PriorityBand] = []
        for priority in reversed(PRIORITIES):
            here = room[get_list_name(queue, priority)]
            if bands and bands[-1].available == here:
                bands[-1] = replace(bands[-1], priorities=range(priority, bands[-1].priorities.stop))
            else:
                bands.append(PriorityBand(range(priority, priority + 1), here))
        return bands

    def _read_heads(self, connection: sa.Connection, backlog: QueueBacklog) -> list[LimitedExecution]:
        after = self._key_cursors.get(backlog.queue, "")
        heads = limit_usage.list_heads(connection, backlog, after, _MAX_KEYS)
        self._key_cursors[backlog.queue] = heads[-1].limit_key if len(heads) == _MAX_KEYS else ""
        return heads

    def _build_fair_queue(
        self, connection: sa.Connection, backlog: QueueBacklog, heads: Sequence[LimitedExecution], capacity: Capacity
    ) -> FairQueue:
        readable = [head for head in heads if head.is_readable]
        capacity.load_limits(connection, [head.limit_key for head in readable])
        return FairQueue(connection, backlog, readable, capacity, self._history, self.ageing)


def _merge_by_urgency(
    unlimited: Iterable[ReadyExecution], fair_queue: FairQueue | None, min_priority: int
) -> Iterator[DispatchCandidate | FairQueueItem]:
    """Yield from both, by urgency and then by due time; a limited execution is popped only when it is next."""
    rows = iter(unlimited)
    row = next(rows, None)
    while True:
        top = fair_queue.peek(min_priority) if fair_queue else None
        if fair_queue and top and (row is None or (-top.urgency, top.head.due_at) < (-row.priority, row.due_at)):
            yield fair_queue.pop()
        elif row is not None:
            yield DispatchCandidate(row, row.priority)
            row = next(rows, None)
        else:
            return


def _load_unreadable(connection: sa.Connection, heads: Iterable[LimitedExecution]) -> list[DispatchCandidate]:
    """Return executions with unreadable limits; `dispatch.check_columns` refuses them, so that they fail.

    A failed execution no longer blocks its limit key.
    """
    ids = [head.id for head in heads if not head.is_readable]
    return [DispatchCandidate(row, PRIORITIES.start) for row in dispatch.get_many(connection, ids)]


def _load_rows(
    connection: sa.Connection, chosen: Sequence[DispatchCandidate | FairQueueItem]
) -> list[DispatchCandidate]:
    """Return the candidates with full rows; of limited executions only the ids were read before."""
    ids = [item.head.id for item in chosen if isinstance(item, FairQueueItem)]
    rows = {row.id: row for row in dispatch.get_many(connection, ids)} if ids else {}
    return [
        DispatchCandidate(rows[item.head.id], item.urgency) if isinstance(item, FairQueueItem) else item
        for item in chosen
    ]
