"""What goes out next: of each queue the most urgent, past the gates, as far as there is room in Redis.

Room is counted by urgency: a message may go if fewer than `feed` wait in its own list and the more urgent ones, so
what is urgent never waits for what is not. When there is no room for all, one in ten goes to what was overtaken.
"""

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import sqlalchemy as sa
from cachetools import LRUCache

from jobworker.domain import gates
from jobworker.domain.execution import PRIORITIES
from jobworker.relay.line import SHARE, Line, Next, Turns
from jobworker.relay.places import Places
from jobworker.store import dispatch, limits
from jobworker.store.dispatch import Ready
from jobworker.store.limits import Backlog, Head
from jobworker.store.queues import Ready as Waiting
from jobworker.store.workers import WorkerRow
from jobworker.transport.publisher import list_name, lists_of

#: Queues of which is remembered how their turns stand.
_MOST_QUEUES = 10_000

#: Limit keys of a queue that one round looks at; the next round goes on with the others.
_MOST_KEYS = 1000


class Chosen(NamedTuple):
    """An execution to publish, and the priority that decides about its list."""

    row: Ready
    urgency: int

    @property
    def publication(self) -> tuple[str, int, int]:
        """What `dispatch.mark_published` takes."""
        return self.row.id, self.row.attempt, self.urgency


@dataclass(frozen=True, slots=True)
class Band:
    """Priorities for which there is the same room."""

    priorities: range
    available: int


@dataclass(slots=True)
class Round:
    """What one round has decided: what goes out, and how full the buckets are afterwards.

    `refused` says whether limits held anything up, `next_at` when a rate opens again.
    """

    candidates: list[Chosen] = field(default_factory=list)
    buckets: Mapping[str, dt.datetime] = field(default_factory=dict)
    is_limited: bool = False
    next_permit_at: dt.datetime | None = None


@dataclass(slots=True)
class Chooser:
    """Decides round after round; what it remembers in between is only about fairness, and may be lost."""

    feed: int
    ageing: dt.timedelta
    _history: Turns = field(default_factory=Turns)
    _key_cursors: LRUCache[str, str] = field(default_factory=lambda: LRUCache(_MOST_QUEUES))
    _overtaken_credit: LRUCache[str, int] = field(default_factory=lambda: LRUCache(_MOST_QUEUES))

    def select(
        self,
        connection: sa.Connection,
        waiting: Sequence[Waiting],
        depths: Mapping[str, int],
        workers: Sequence[WorkerRow],
        now: dt.datetime,
        without: Sequence[str] = (),
    ) -> Round:
        """One round over the queues in which something may run; `depths` are those of the lists in Redis.

        `without` names revisions of jobs whose executions stay where they are.
        """
        places = Places.load(connection, now) if any(queue.limited for queue in waiting) else None
        round = Round()
        for queue in waiting:
            tasks = sorted(gates.runnable(queue.name, workers))
            bands = self._compute_bands(queue.name, depths)
            if tasks and bands[0].available > 0:
                backlog = Backlog(queue.name, tasks, without)
                heads = self._read_heads(connection, backlog) if places and queue.limited else []
                line = self._build_fair_queue(connection, backlog, heads, places) if places and heads else None
                round.candidates += self._select_from_queue(connection, backlog, bands, line, now)
                round.candidates += _unreadable(connection, heads)
        if places:
            round.buckets, round.is_limited, round.next_permit_at = places.updated_buckets, places.is_limited, places.next_permit_at
        return round

    def _select_from_queue(
        self, connection: sa.Connection, backlog: Backlog, bands: Sequence[Band], line: Line | None, now: dt.datetime
    ) -> list[Chosen]:
        chosen: list[Chosen | Next] = []
        for band in bands:
            left = band.available - len(chosen)
            if left <= 0:
                break
            free = dispatch.ready(connection, backlog, left, band.priorities)
            chosen += itertools.islice(_merged(free, line, band.priorities.start), left)
        complete = _complete(connection, chosen)
        if len(complete) < bands[-1].available:
            return complete
        return complete + self._select_overtaken(connection, backlog, complete, now)

    def _select_overtaken(
        self, connection: sa.Connection, backlog: Backlog, chosen: Sequence[Chosen], now: dt.datetime
    ) -> list[Chosen]:
        """When there was no room for all: what goes beyond the room, which shrinks by as much for the next round."""
        owed = self._overtaken_credit.get(backlog.queue, 0) + len(chosen)
        self._overtaken_credit[backlog.queue] = owed % SHARE
        if owed < SHARE or not chosen:
            return []
        urgency = chosen[-1].urgency
        found = dispatch.overtaken(connection, backlog, urgency, now - self.ageing, owed // SHARE)
        return [Chosen(row, urgency) for row in found]

    def _compute_bands(self, queue: str, depths: Mapping[str, int]) -> list[Band]:
        """The priorities from the most urgent down, together as long as there is the same room."""
        names = lists_of(queue)
        waiting = list(itertools.accumulate(depths[name] for name in names))
        room = {name: self.feed - count for name, count in zip(names, waiting, strict=True)}
        bands: list[Band] = []
        for priority in reversed(PRIORITIES):
            here = room[list_name(queue, priority)]
            if bands and bands[-1].available == here:
                bands[-1] = replace(bands[-1], priorities=range(priority, bands[-1].priorities.stop))
            else:
                bands.append(Band(range(priority, priority + 1), here))
        return bands

    def _read_heads(self, connection: sa.Connection, backlog: Backlog) -> list[Head]:
        after = self._key_cursors.get(backlog.queue, "")
        heads = limits.heads(connection, backlog, after, _MOST_KEYS)
        self._key_cursors[backlog.queue] = heads[-1].limit_key if len(heads) == _MOST_KEYS else ""
        return heads

    def _build_fair_queue(self, connection: sa.Connection, backlog: Backlog, heads: Sequence[Head], places: Places) -> Line:
        readable = [head for head in heads if head.is_readable]
        places.load_limits(connection, [head.limit_key for head in readable])
        return Line(connection, backlog, readable, places, self._history, self.ageing)


def _merged(free: Iterable[Ready], line: Line | None, lowest: int) -> Iterator[Chosen | Next]:
    """Both, the more urgent first and then the older. What is under limits is taken only when its turn has come."""
    rows = iter(free)
    row = next(rows, None)
    while True:
        top = line.peek(lowest) if line else None
        if line and top and (row is None or (-top.urgency, top.head.due_at) < (-row.priority, row.due_at)):
            yield line.pop()
        elif row is not None:
            yield Chosen(row, row.priority)
            row = next(rows, None)
        else:
            return


def _unreadable(connection: sa.Connection, heads: Iterable[Head]) -> list[Chosen]:
    """Return those whose limits cannot be told: `dispatch.check` refuses them, so they fail and leave their key."""
    ids = [head.id for head in heads if not head.is_readable]
    return [Chosen(row, PRIORITIES.start) for row in dispatch.rows(connection, ids)]


def _complete(connection: sa.Connection, chosen: Sequence[Chosen | Next]) -> list[Chosen]:
    """Of what is under limits only the ids were read so far."""
    ids = [each.head.id for each in chosen if isinstance(each, Next)]
    rows = {row.id: row for row in dispatch.rows(connection, ids)} if ids else {}
    return [Chosen(rows[each.head.id], each.urgency) if isinstance(each, Next) else each for each in chosen]
