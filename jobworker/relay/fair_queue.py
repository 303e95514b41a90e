"""Fair queue of executions under limits in one queue: by priority, then by the limit key with the fewest running.

Keys take turns: among keys of equal rank, the key that was served longest ago comes first. Executions that were
overtaken for long get a share: within a key one of `OVERTAKEN_SHARE` executions, and between keys the head of a key
that was not served for that long.
"""

import datetime as dt
import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from jobworker.relay.capacity import Capacity
from jobworker.store.executions import limit_usage
from jobworker.store.executions.limit_usage import LimitedExecution, QueueBacklog

#: While capacity is short, one dispatched execution in this many is one that was overtaken for long.
OVERTAKEN_SHARE = 10

#: Executions of one limit key that the first read returns.
_FIRST_PAGE_SIZE = 20

#: Maximum number of limit keys with a recorded turn.
_HISTORY_SIZE = 10_000

_NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


class RoundRobinTurn(NamedTuple):
    """The time a limit key was last served, and the number of times."""

    served_at: dt.datetime = _NEVER
    serve_count: int = 0


class RoundRobinHistory(dict[str, RoundRobinTurn]):
    """The turns of limit keys; the oldest are dropped."""

    def record_turn(self, limit_key: str, now: dt.datetime) -> None:
        """Record that this limit key was served."""
        self[limit_key] = RoundRobinTurn(now, self.pop(limit_key, RoundRobinTurn()).serve_count + 1)
        if len(self) > _HISTORY_SIZE:
            for oldest in list(itertools.islice(self, _HISTORY_SIZE // 2)):
                del self[oldest]


class FairQueueItem(NamedTuple):
    """The next execution of one limit key. Items compare by dispatch order."""

    sort_key: tuple[int, int, dt.datetime, dt.datetime, str]
    head: LimitedExecution
    urgency: int


class FairQueue:
    """The fair queue of one dispatch round. `pop` acquires capacity for the execution."""

    def __init__(
        self,
        connection: sa.Connection,
        backlog: QueueBacklog,
        heads: Sequence[LimitedExecution],
        capacity: Capacity,
        history: RoundRobinHistory,
        ageing: dt.timedelta,
    ) -> None:
        self._connection = connection
        self._backlog = backlog
        self._capacity = capacity
        self._history = history
        self._aged_before = capacity.now - ageing
        self._max_priority = max((head.priority for head in heads), default=0)
        self._popped_ids: set[str] = set()
        self._read_counts: dict[str, int] = {}
        self._heads_by_key: dict[str, deque[LimitedExecution]] = {}
        self._heap = [self._build_item(head) for head in heads if not capacity.find_blocker(head.limit_key)]
        heapq.heapify(self._heap)

    def peek(self, min_priority: int) -> FairQueueItem | None:
        """Return the next item if its urgency is at least `min_priority`; None otherwise."""
        while self._heap and self._heap[0].urgency >= min_priority:
            if not self._capacity.find_blocker(self._heap[0].head.limit_key):
                return self._heap[0]
            heapq.heappop(self._heap)
        return None

    def pop(self) -> FairQueueItem:
        """Remove and return the item that `peek` returned."""
        gone = heapq.heappop(self._heap)
        limit_key = gone.head.limit_key
        self._capacity.acquire(limit_key)
        self._history.record_turn(limit_key, self._capacity.now)
        self._popped_ids.add(gone.head.id)
        if not self._capacity.find_blocker(limit_key) and (following := self._get_following(limit_key)):
            heapq.heappush(self._heap, self._build_item(following))
        return gone

    def _build_item(self, head: LimitedExecution) -> FairQueueItem:
        turn = self._history.get(head.limit_key, RoundRobinTurn())
        urgency = head.priority
        if turn.served_at <= self._aged_before and head.due_at <= self._aged_before:
            urgency = self._max_priority
        if turn.serve_count % OVERTAKEN_SHARE == OVERTAKEN_SHARE - 1:
            head = self._find_overtaken(head) or head
        rank = self._capacity.count_in_use(head.limit_key)
        return FairQueueItem((-urgency, rank, turn.served_at, head.due_at, head.id), head, urgency)

    def _find_overtaken(self, head: LimitedExecution) -> LimitedExecution | None:
        overtaken = limit_usage.get_overtaken(self._connection, self._backlog, head, self._aged_before)
        return overtaken if overtaken and overtaken.id not in self._popped_ids else None

    def _get_following(self, limit_key: str) -> LimitedExecution | None:
        waiting = self._heads_by_key.setdefault(limit_key, deque())
        if not waiting:
            waiting.extend(self._read_more(limit_key))
        while waiting:
            if waiting[0].id not in self._popped_ids:
                return waiting.popleft()
            waiting.popleft()
        return None

    def _read_more(self, limit_key: str) -> Sequence[LimitedExecution]:
        """Return further executions of a limit key. SQL still lists the popped ones as ready, before all others."""
        before = self._read_counts.get(limit_key, 0)
        self._read_counts[limit_key] = limit = max(_FIRST_PAGE_SIZE, before * 4)
        heads = limit_usage.list_by_limit_key(self._connection, self._backlog, limit_key, limit)
        return [head for head in heads[before:] if head.is_readable]
