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
from jobworker.domain.events import Kind
from jobworker.transport import keys
from jobworker.transport.broker.fetching import MOST, Appetite
from jobworker.transport.claims import Answer, Ticket
from jobworker.transport.messages import Fetched, Owed, ticket_of, ticket_of_text
from jobworker.transport.scripts.messages import SETTLE

logger = structlog.get_logger(__name__)

#: Reports leave at this distance (s), the second while many jobs end; after a pause the first leaves at once.
_SHORT_PACE, _PACE = 0.002, 0.02

#: Reports that leave at once however short the last one is ago, and the most that leave in one call.
_MANY, _MOST_AT_ONCE = 200, 400

#: Characters of data after which no report is added to a call: Redis counts a call as used memory, too.
_LARGE = 128 * 1024

#: Pause before Redis is asked again (s), doubled up to the second figure.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0

#: What was fetched and has not started within so long (s) goes back, for another worker or a more urgent job.
_PATIENCE = 0.2

#: While reports could not leave for so long (s), nothing new is begun.
_OVERDUE = 1.0


class Fenced(Exception):
    """This worker was given up: what it does no longer counts."""


class Mailbox:
    """One worker's messages and reports. Reports may come from any thread; the rest belongs to the event loop."""

    def __init__(
        self,
        worker: str,
        code_version: str,
        clock: Clock,
        connect: Callable[[], redis.Redis],
        end: Callable[[], None],
    ) -> None:
        """`connect` opens a client of its own; `end` ends the worker when it was given up."""
        self.worker = worker
        #: What was fetched and is not in Celery's hands; the first `_cleared` of it may start.
        self.waiting: collections.deque[Fetched] = collections.deque()
        #: What Celery has in hand, by tag.
        self.held: dict[str, Ticket | None] = {}
        self.appetite = Appetite()
        #: Asks for a turn of the event loop soon, from whatever thread; None: there is none, settle at once.
        self.call_soon: Callable[[], None] | None = None
        #: Hands to Celery what can start, and how many could; whoever consumes sets them.
        self.pump: Callable[[], None] = _nothing
        self.credit: Callable[[], int] = int  # Which is 0: nobody consumes.
        self._cleared = 0
        self._clock = clock
        self._connect = connect
        self.end = end
        self._client: redis.Redis | None = None
        # The data of a `running` event, before and after the tag.
        self._start_data = (
            f'{{"worker":{json.dumps(worker)},"code_version":{json.dumps(code_version)},"token":"',
            '"}',
        )
        self._next_tag = 1
        self._owed: list[Owed] = []
        # How many reports Redis has taken: each has its number, so that none is told twice.
        self._told = 0
        self._settling = threading.RLock()
        self._settled_at = float("-inf")
        self._refused_since: float | None = None
        self._pause = 0.0

    # --- messages ---------------------------------------------------------------------------------------------

    def take_tags(self, count: int = 0) -> int:
        """The first of `count` tags that were never used before."""
        first = self._next_tag
        self._next_tag += count
        return first

    def received(self, entries: Iterable[tuple[str, str, bytes]], starting: int = 0) -> None:
        """(tag, queue, message) that are in the in-flight hash now; `starting` of them may start, and all before."""
        now = self._clock.monotonic()
        before = len(self.waiting)
        for tag, queue, message in entries:
            self.waiting.append(Fetched(tag, queue, message, ticket_of_text(message, self.worker, tag), now))
        if starting:
            self._cleared = min(before + starting, len(self.waiting))
        if self._cleared < len(self.waiting):
            self._ring()

    def adopted(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        """The same, of messages that were fetched earlier than those that are waiting."""
        later, self.waiting, self._cleared = self.waiting, collections.deque(), 0
        self.received(entries)
        self.waiting.extend(later)

    def hand_over(self) -> Fetched | None:
        """The next message that may start, which Celery has in hand from now on."""
        if not self._cleared or self.is_overdue():
            return None
        self._cleared -= 1
        fetched = self.waiting.popleft()
        self.held[fetched.tag] = fetched.ticket
        return fetched

    def wants(self) -> int:
        """How many messages to fetch."""
        if self.is_overdue():
            return 0
        ahead = self.appetite.ahead(self._clock.monotonic())
        room = min(MOST, self.credit() + ahead - len(self.waiting))
        # By the batch: not one call for each message that left.
        return room if room > 0 and (not self.waiting or room >= ahead // 2) else 0

    def starting(self) -> int:
        """How many of the messages that are waiting may have started before Redis is told the next time."""
        return self.credit() + self.appetite.soon(self._clock.monotonic(), _PACE)

    def is_overdue(self) -> bool:
        """Whether Redis has refused reports for so long that nothing new should begin."""
        since = self._refused_since
        return since is not None and self._clock.monotonic() - since > _OVERDUE

    def known(self) -> set[str]:
        """The tags of all messages that are waiting, in hand, or done and not yet acknowledged."""
        return {fetched.tag for fetched in self.waiting} | set(self.held) | {owed.tag for owed in list(self._owed)}

    def is_empty(self) -> bool:
        """Whether this worker has nothing in hand and owes nothing."""
        return not (self.waiting or self.held or self._owed)

    def give_back_late(self) -> None:
        """Return what was fetched ahead and has not started in time."""
        if self.waiting and self._clock.monotonic() - self.waiting[0].at > _PATIENCE:
            self.appetite.lose()
            self.give_back_waiting()

    def give_back_waiting(self) -> None:
        """Return everything that was not handed to Celery, the last fetched first."""
        self._cleared = 0
        while self.waiting:
            fetched = self.waiting.pop()
            self.held[fetched.tag] = fetched.ticket
            self.give_back(fetched.tag)

    def give_back_all(self) -> None:
        """Return everything that is not done: the worker stops. What Celery had in hand may have started."""
        self.give_back_waiting()
        for tag, ticket in list(self.held.items()):
            if ticket:
                data = {"worker": ticket.worker, "token": tag, "reason": "its worker was shut down"}
                self.ended(ticket, Kind.INTERRUPTED, json.dumps(data))
            else:
                self.give_back(tag)

    # --- reports ----------------------------------------------------------------------------------------------

    def may_start(self, ticket: Ticket) -> bool:
        """Whether the attempt was cleared when it was handed over."""
        return self.held.get(ticket.token) == ticket

    def claim(self, ticket: Ticket) -> Answer:
        """Ask whether an attempt that no fetch has taken may start. Raises `redis.RedisError`, `Fenced`."""
        with self._settling:
            answer = Answer(self._tell([Owed("claim", ticket.token, ticket.execution, ticket.attempt)])[0])
        if answer is Answer.RUN:
            self.held[ticket.token] = ticket
        return answer

    def called(self, ticket: Ticket, data: str) -> None:
        """The attempt is the first of an execution that was called from Python; said before anything else about it."""
        self._owe(Owed("tell", ticket.token, ticket.execution, ticket.attempt, Kind.CALLED, data))

    def started(self, ticket: Ticket) -> None:
        """A process or thread has begun with the attempt."""
        data = ticket.token.join(self._start_data)
        self._owe(Owed("tell", ticket.token, ticket.execution, ticket.attempt, Kind.RUNNING, data))

    def ended(self, ticket: Ticket, kind: str, data: str, then: Callable[[], None] | None = None) -> None:
        """The attempt ended: the report, its data as JSON, and the acknowledgement. `then` once Redis has it."""
        self._let_go(ticket.token)
        self._owe(Owed("end", ticket.token, ticket.execution, ticket.attempt, kind, data, then))

    def refused(self, ticket: Ticket, kind: str, data: str) -> None:
        """The attempt cannot start on this worker; somebody else may try it."""
        self._let_go(ticket.token)
        self._owe(Owed("refuse", ticket.token, ticket.execution, ticket.attempt, kind, data))

    def done(self, tag: str, kind: str | None = None, data: str = "{}") -> None:
        """A message is done that is no attempt, or a copy of one. `kind`: what to tell about it."""
        if tag in self.held or kind:
            self._let_go(tag)
            self._owe(Owed("done", tag, kind=kind or "", data=data))

    def reject(self, tag: str, headers: Any, error: Exception, reason: str, queue: str | None) -> None:
        """A message that cannot become a run of a job: report it, and be done with it."""
        # The job has raised nothing, so it is not shown as what a job raised.
        why = f"{reason}: {type(error).__name__}: {error}"[:1000]
        told = {"type": "MessageRejected", "message": why, "traceback": None}
        ticket = ticket_of(headers, self.worker, tag)
        if ticket:
            mine = {"worker": ticket.worker, "token": tag, "reason": reason, "error": told}
            self.ended(ticket, Kind.REJECTED, json.dumps(mine))
        else:
            known = headers if isinstance(headers, dict) else {}
            ids = {"message": known.get("id"), "task": known.get("task"), "queue": queue}
            self.done(tag, Kind.REJECTED, json.dumps({**ids, "reason": reason, "error": told}, default=str))

    def give_back(self, tag: str) -> None:
        """The message was not started and goes back to the front of its list."""
        if tag in self.held:
            ticket = self.held.pop(tag)
            execution, attempt = (ticket.execution, ticket.attempt) if ticket else ("", 0)
            self._owe(Owed("back", tag, execution, attempt))

    def tickets(self) -> list[Ticket]:
        """Return the attempts of this worker that run, may start at any moment, or whose end Redis has not taken."""
        waiting = [fetched.ticket for fetched in list(self.waiting)]
        # Otherwise an attempt would be believed lost, and run again, while a full Redis does not take its end.
        ends = [owed for owed in list(self._owed) if owed.what == "end"]
        ended = [Ticket(owed.execution, owed.attempt, self.worker, owed.tag) for owed in ends]
        return [ticket for ticket in [*self.held.values(), *waiting, *ended] if ticket]

    def fenced(self) -> NoReturn:
        """Another has taken this worker's place; it ends, or `Fenced` is raised where it cannot."""
        logger.error(
            "worker_was_given_up", worker=self.worker, why="its heartbeat had stopped for longer than its lease"
        )
        self.end()
        raise Fenced

    # --- settling ---------------------------------------------------------------------------------------------

    def due_in(self) -> float | None:
        """Seconds until Redis should be told something; None if there is nothing to tell."""
        idle = self.waiting and not self._cleared and self.credit() > 0
        if not self._owed and not idle:
            return None
        pace = self._pause or (0.0 if idle or len(self._owed) >= _MANY else self._pace())
        return max(0.0, self._settled_at + pace - self._clock.monotonic())

    def _pace(self) -> float:
        return _PACE if self.appetite.is_brisk() else _SHORT_PACE

    def settle(self) -> bool:
        """Tell Redis what is owed and what starts next; False if it did not take it (it is kept). Raises `Fenced`."""
        with self._settling:
            while True:
                part = self._next_part()
                clear = min(len(self.waiting), self.starting())
                if not part and clear <= self._cleared:
                    return True
                try:
                    answers = self._tell(part, clear, self._told + 1)
                except redis.RedisError as error:
                    self._put_off(error)
                    return False
                self._pause, self._refused_since = 0.0, None
                self._note(part, answers)

    def _next_part(self) -> list[Owed]:
        """Return the reports that the next call to Redis carries."""
        owed = self._owed[:_MOST_AT_ONCE]
        sizes = itertools.accumulate(len(each.data) for each in owed)
        return owed[: 1 + sum(size <= _LARGE for size in sizes)]

    def settle_for_good(self, within: float) -> bool:
        """Settle before the worker ends, insisting for up to `within` seconds. Raises `Fenced`."""
        deadline = self._clock.monotonic() + within
        while not self.settle():
            if self._clock.monotonic() > deadline:
                logger.error("reports_not_delivered", count=len(self._owed))
                return False
            self._clock.wait(threading.Event(), _FIRST_PAUSE)
        return True

    def _tell(self, part: list[Owed], clear: int = 0, number: int = 0) -> list[str]:
        self._settled_at = self._clock.monotonic()
        if self._client is None:
            self._client = self._connect()
            self._script = self._client.register_script(SETTLE)
        last = self.waiting[clear - 1].tag if clear > self._cleared else ""
        arguments: list[Any] = [self.worker, keys.RUNNING_TTL, keys.FINISHED_TTL, last, number]
        for owed in part:
            arguments += (owed.what, owed.tag, owed.execution, owed.attempt, owed.kind, owed.data)
        names = [keys.FENCE.format(worker=self.worker), keys.INFLIGHT.format(worker=self.worker), keys.EVENTS]
        answers: list[str] = self._script(keys=names, args=arguments)
        if answers == ["fenced"]:
            self.fenced()
        self._cleared = max(self._cleared, clear)
        return answers

    def _owe(self, owed: Owed) -> None:
        self._owed.append(owed)
        self._ring()

    def _ring(self) -> None:
        """There is something to settle."""
        if self.call_soon:
            self.call_soon()
        else:
            self.settle()

    def _put_off(self, error: redis.RedisError) -> None:
        now = self._clock.monotonic()
        self._settled_at = now
        self._refused_since = now if self._refused_since is None else self._refused_since
        self._pause = min(self._pause * 2 or _FIRST_PAUSE, _LONGEST_PAUSE)
        logger.warning("redis_takes_no_reports", error=str(error), owed=len(self._owed), next_try_in=self._pause)

    def _note(self, part: list[Owed], answers: list[str]) -> None:
        del self._owed[: len(part)]
        self._told += len(part)
        for owed, answer in zip(part, answers, strict=True):
            if answer == Answer.STALE:
                logger.warning("report_refused", execution=owed.execution, attempt=owed.attempt, why=answer)
            if owed.then:
                owed.then()

    def _let_go(self, tag: str) -> None:
        if tag in self.held:
            del self.held[tag]
            self.appetite.ended()


def _nothing() -> None:
    """Nobody consumes."""
