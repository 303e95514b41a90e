"""Who is next among what is ready under limits in one queue: the most urgent, and of those whoever has the least.

Keys take turns: the one of which the fewest run is next, and of several the one that has waited for its turn the
longest. What was overtaken for long has its turn, too: of each key one in `SHARE`, and between keys the head of one
that was not served for so long.
"""

import datetime as dt
import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from jobworker.relay.places import Places
from jobworker.store import limits
from jobworker.store.limits import Backlog, Head

#: Of what goes out while there is not enough room for all, one in so many has been overtaken for long.
SHARE = 10

#: So many of one key are read at first.
_FIRST_PART = 20

#: Keys whose turns are remembered.
_MOST_TURNS = 10_000

_NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)


class Turn(NamedTuple):
    """When a key was last served, and how often it was."""

    at: dt.datetime = _NEVER
    times: int = 0


class Turns(dict[str, Turn]):
    """The turns of many keys; the oldest are forgotten."""

    def note(self, limit_key: str, now: dt.datetime) -> None:
        """It was the turn of this key."""
        self[limit_key] = Turn(now, self.pop(limit_key, Turn()).times + 1)
        if len(self) > _MOST_TURNS:
            for oldest in list(itertools.islice(self, _MOST_TURNS // 2)):
                del self[oldest]


class Next(NamedTuple):
    """The next of one key. They compare by who goes first."""

    order: tuple[int, int, dt.datetime, dt.datetime, str]
    head: Head
    urgency: int


class Line:
    """See the module. `take` counts what goes in `places`."""

    def __init__(
        self,
        connection: sa.Connection,
        backlog: Backlog,
        heads: Sequence[Head],
        places: Places,
        turns: Turns,
        ageing: dt.timedelta,
    ) -> None:
        self._connection = connection
        self._backlog = backlog
        self._places = places
        self._turns = turns
        self._long_ago = places.now - ageing
        self._highest = max((head.priority for head in heads), default=0)
        self._taken: set[str] = set()
        self._read: dict[str, int] = {}
        self._waiting: dict[str, deque[Head]] = {}
        self._next = [self._turn(head) for head in heads if not places.refusal(head.limit_key)]
        heapq.heapify(self._next)

    def top(self, lowest: int) -> Next | None:
        """Who is next, if it is no less urgent than `lowest`."""
        while self._next and self._next[0].urgency >= lowest:
            if not self._places.refusal(self._next[0].head.limit_key):
                return self._next[0]
            heapq.heappop(self._next)
        return None

    def take(self) -> Next:
        """Whoever `top` has named goes."""
        gone = heapq.heappop(self._next)
        limit_key = gone.head.limit_key
        self._places.take(limit_key)
        self._turns.note(limit_key, self._places.now)
        self._taken.add(gone.head.id)
        if not self._places.refusal(limit_key) and (following := self._following(limit_key)):
            heapq.heappush(self._next, self._turn(following))
        return gone

    def _turn(self, head: Head) -> Next:
        turn = self._turns.get(head.limit_key, Turn())
        urgency = head.priority
        if turn.at <= self._long_ago and head.due_at <= self._long_ago:
            urgency = self._highest
        if turn.times % SHARE == SHARE - 1:
            head = self._overtaken(head) or head
        rank = self._places.rank(head.limit_key)
        return Next((-urgency, rank, turn.at, head.due_at, head.id), head, urgency)

    def _overtaken(self, head: Head) -> Head | None:
        found = limits.overtaken(self._connection, self._backlog, head, self._long_ago)
        return found if found and found.id not in self._taken else None

    def _following(self, limit_key: str) -> Head | None:
        waiting = self._waiting.setdefault(limit_key, deque())
        if not waiting:
            waiting.extend(self._read_on(limit_key))
        while waiting:
            if waiting[0].id not in self._taken:
                return waiting.popleft()
            waiting.popleft()
        return None

    def _read_on(self, limit_key: str) -> Sequence[Head]:
        """More of a key than was read so far. What was taken is still ready for SQL, and in front."""
        before = self._read.get(limit_key, 0)
        self._read[limit_key] = wanted = max(_FIRST_PART, before * 4)
        found = limits.line(self._connection, self._backlog, limit_key, wanted)
        return [head for head in found[before:] if head.is_readable]
