"""Invariant of the transport: for every order of events, an attempt starts at most once and is never lost.

The scripts, the Redis and the mailboxes are real; only the pools that run the jobs are simulated.
"""

import contextlib
import datetime as dt
from collections import Counter
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobworker.clock import ManualClock
from jobworker.domain.executions.events import EventKind
from jobworker.transport import keys
from jobworker.transport.broker.in_flight import InFlight
from jobworker.transport.broker.prefetch import PrefetchEstimator
from jobworker.transport.broker.report_outbox import PendingReport, ReportOutbox
from jobworker.transport.claims import Claim
from jobworker.transport.publisher import Message, Publisher, get_list_names
from jobworker.transport.scripts.messages import ADOPT, FETCH
from jobworker.transport.worker_registry import WorkerRegistry
from tests.servers import RedisServer

_SLOTS = 3
_QUEUES = ("one", "two")


class _FencedError(Exception):
    """The in_flight was fenced."""


class _LossyConnection:
    """Connection of a in_flight, which may lose an answer after Redis has executed the request."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.loses_answer = False

    def register_script(self, text: str) -> Any:
        script = self._client.register_script(text)

        def call(**arguments: Any) -> Any:
            answer = script(**arguments)
            if self.loses_answer:
                self.loses_answer = False
                raise redis.ConnectionError("cut")
            return answer

        return call


class _FixedPrefetchEstimator(PrefetchEstimator):
    """Prefetch estimator for short jobs: some messages are fetched ahead, and `soon` of these may start at once."""

    def __init__(self, soon: int) -> None:
        super().__init__()
        self._soon = soon

    def estimate_prefetch(self, now: float) -> int:
        return 5

    def estimate_starts(self, now: float, seconds: float) -> int:
        return self._soon


class _WorkerModel:
    """Model of a worker: it fetches as a channel does, and simulates the pool."""

    def __init__(self, model: "_TransportModel", number: int) -> None:
        self.model = model
        self.name = f"worker{number}"
        self.connection = _LossyConnection(model.client)
        connect: Any = lambda: self.connection  # noqa: E731
        self.in_flight = InFlight(ReportOutbox(self.name, model.clock, connect, self._fence), "1", model.clock)
        self.in_flight.outbox.call_soon = lambda: None
        self.in_flight.prefetch_estimator = _FixedPrefetchEstimator(soon=number % 2 * 2)
        self.in_flight.get_credit = lambda: _SLOTS - len(self.in_flight.delivered)
        self.running: list[Claim] = []
        self.in_doubt = True
        self.late_requests: list[tuple[list[str], list[Any]]] = []
        model.client.zadd(keys.WORKERS, {self.name: 10**15})

    def fetch(self, lose: bool, never_arrives: bool = False) -> None:
        if self.in_doubt:
            self.adopt()
        in_flight = self.in_flight
        fetch_size = in_flight.compute_fetch_size()
        starting = min(fetch_size, max(0, in_flight.estimate_startable() - len(in_flight.prefetched)))
        names = [
            keys.FENCE.format(worker=self.name),
            keys.WORKERS,
            keys.INFLIGHT.format(worker=self.name),
            keys.EVENTS,
        ]
        shares = [word for queue in _QUEUES for word in (queue, fetch_size // 2)]
        request = names, [self.name, in_flight.allocate_tags(fetch_size), fetch_size, starting, 1000, *shares]
        if never_arrives:
            self.late_requests.append(request)
            self.in_doubt = True
            return
        answer = self._send(request)
        if lose:
            self.in_doubt = True
        else:
            entries = zip(answer[1::3], answer[2::3], answer[3::3], strict=True)
            in_flight.add_fetched([(tag, queue, text.encode()) for tag, queue, text in entries], starting)

    def _send(self, request: tuple[list[str], list[Any]]) -> list[str]:
        answer: list[str] = self.model.fetch(keys=request[0], args=request[1])
        if answer == ["fenced"]:
            raise _FencedError
        return answer

    def deliver_late_request(self) -> None:
        """Deliver a request of an abandoned connection; it must have no effect once the worker adopted its messages."""
        if self.late_requests and not self.in_doubt:
            assert len(self._send(self.late_requests.pop())) == 1, "no message, just a word"

    def adopt(self) -> None:
        flat: Any = self.model.client.eval(
            ADOPT, 1, keys.INFLIGHT.format(worker=self.name), self.in_flight.allocate_tags()
        )
        held = zip(flat[0::2], flat[1::2], strict=True)
        unknown = sorted(
            (int(tag), text) for tag, text in held if tag.isdigit() and tag not in self.in_flight.get_tags()
        )
        entries = []
        for tag, text in unknown:
            size, _, content = text.partition(":")
            entries.append((str(tag), content[: int(size)], content[int(size) :].encode()))
        self.in_flight.add_adopted(entries)
        self.in_doubt = False

    def pump(self) -> None:
        while self.in_flight.get_credit() > 0:
            fetched = self.in_flight.pop_startable()
            if fetched is None:
                return
            assert fetched.claim is not None
            assert self.in_flight.can_start(fetched.claim)
            self.model.starts[fetched.claim.execution] += 1
            self.running.append(fetched.claim)
            self.in_flight.report_started(fetched.claim)

    def end_one(self) -> None:
        if self.running:
            self.in_flight.report_ended(self.running.pop(0), EventKind.SUCCEEDED, "{}")

    def flush(self, lose: bool) -> None:
        self.connection.loses_answer = lose
        self.in_flight.outbox.flush()
        self.connection.loses_answer = False

    def return_late(self) -> None:
        self.model.clock.advance(0.3)
        self.in_flight.requeue_late()

    def _fence(self) -> None:
        raise _FencedError


class _TransportModel:
    """Redis with the published messages, and the attempts that began."""

    def __init__(self, server: RedisServer) -> None:
        self.client: redis.Redis = server.create_client()
        self.client.flushdb()
        self.clock = ManualClock(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        self.fetch = self.client.register_script(FETCH)
        self.publisher = Publisher(self.client)
        self.registry = WorkerRegistry(self.client, lease=1.0)
        self.published: list[Message] = []
        self.starts: Counter[str] = Counter()
        self.copied: set[str] = set()
        self.workers = [_WorkerModel(self, 0), _WorkerModel(self, 1)]
        self.worker_count = 2

    def publish(self, priority: int) -> None:
        number = len(self.published)
        common = {"job": "j", "revision": 1, "task": "j", "parameters": {}, "retries": 0, "max_attempts": None}
        more = {"time_limit": None, "soft_time_limit": None, "correlation_id": "", "scheduled_for": None}
        place = {"queue": _QUEUES[number % 2], "priority": priority}
        message = Message(execution=f"e-{number}", attempt=1, **place, **common, **more)  # type: ignore[arg-type]
        self.published.append(message)
        self.publisher.publish([message])

    def publish_duplicate(self, number: int) -> None:
        if self.published:
            message = self.published[number % len(self.published)]
            self.copied.add(message.execution)
            self.publisher.publish([message])

    def kill_worker(self, number: int, woken: bool) -> None:
        """Let a worker miss its lease and replace it. If it is woken, it must be fenced."""
        number %= 2
        dead = self.workers[number]
        self.client.zadd(keys.WORKERS, {dead.name: 1})
        assert self.registry.reap_worker(dead.name)
        if woken:
            with contextlib.suppress(_FencedError):
                dead.fetch(lose=False)
                raise AssertionError("a fenced worker was given messages")
            with contextlib.suppress(_FencedError):
                dead.end_one()
                dead.in_flight.outbox.add(PendingReport("done", "0"))
                dead.in_flight.outbox.flush()
                raise AssertionError("a fenced worker's report was taken")
        self.workers[number] = _WorkerModel(self, self.worker_count)
        self.worker_count += 1

    def count_events(self) -> dict[str, Counter[str]]:
        entries: Any = self.client.xrange(keys.EVENTS)
        event_counts: dict[str, Counter[str]] = {message.execution: Counter() for message in self.published}
        for _, fields in entries:
            if fields["execution"]:
                event_counts[fields["execution"]][fields["kind"]] += 1
        return event_counts

    def count_queued(self) -> Counter[str]:
        names = [name for queue in _QUEUES for name in get_list_names(queue)]
        texts: list[Any] = [text for name in names for text in self.client.lrange(name, 0, -1)]
        return Counter(_parse_execution(text) for text in texts)

    def count_in_flight(self) -> Counter[str]:
        flights: list[Any] = [
            self.client.hgetall(keys.INFLIGHT.format(worker=f"worker{number}")) for number in range(self.worker_count)
        ]
        return Counter(_parse_execution(text) for held in flights for tag, text in held.items() if tag.isdigit())

    def check_invariant(self) -> None:
        """Check that each attempt is in exactly one place, besides copies in queues, and has begun at most once."""
        queued, in_flight, event_counts = self.count_queued(), self.count_in_flight(), self.count_events()
        for message in self.published:
            execution = message.execution
            over = event_counts[execution]["succeeded"] + event_counts[execution]["lost"]
            assert self.starts[execution] <= 1
            assert event_counts[execution]["running"] <= 1
            assert over <= 1
            assert in_flight[execution] <= 1
            if execution in self.copied:
                assert queued[execution] + in_flight[execution] + over >= 1
            else:
                assert queued[execution] + in_flight[execution] + over == 1

    def drain(self) -> None:
        """Let the workers process all messages without further faults."""
        for _ in range(400):
            for worker in self.workers:
                worker.fetch(lose=False)
                worker.flush(lose=False)
                worker.pump()
                worker.end_one()
                worker.flush(lose=False)
                worker.return_late()
            if not self.count_queued() and not self.count_in_flight():
                return
        raise AssertionError(f"something is stuck: {self.count_queued()} {self.count_in_flight()}")


def _parse_execution(text: str) -> str:
    return text.partition('"execution":"')[2].partition('"')[0]


_WORKER_NUMBERS = st.integers(0, 1)
_ANSWER_LOSSES = st.booleans()
_STEPS = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 5), st.sampled_from([1, 5, 9])),
    st.tuples(st.just("copy"), st.integers(0, 20)),
    # Work of a worker in one turn of its event loop, and the points at which the connection breaks.
    st.tuples(st.just("turn"), _WORKER_NUMBERS, _ANSWER_LOSSES, _ANSWER_LOSSES, st.integers(0, 3)),
    st.tuples(st.just("fetch"), _WORKER_NUMBERS, _ANSWER_LOSSES),
    st.tuples(st.just("late"), _WORKER_NUMBERS),
    st.tuples(st.just("back"), _WORKER_NUMBERS, _ANSWER_LOSSES),
    st.tuples(st.just("die"), _WORKER_NUMBERS, st.booleans()),
)


def _apply_step(model: _TransportModel, step: Any) -> None:
    action, first, *arguments = step
    worker = model.workers[first % 2]
    match action:
        case "publish":
            for _ in range(first):
                model.publish(*arguments)
        case "copy":
            model.publish_duplicate(first)
        case "turn":
            lose_fetch, lose_settle, ended = arguments
            worker.fetch(lose_fetch)
            worker.pump()
            for _ in range(ended):
                worker.end_one()
            worker.flush(lose_settle)
        case "fetch":
            worker.fetch(*arguments)
        case "late":
            worker.fetch(lose=False, never_arrives=True)
            worker.adopt()
            model.publish(priority=5)
            worker.deliver_late_request()
        case "back":
            worker.return_late()
            worker.flush(*arguments)
        case "die":
            model.kill_worker(first, *arguments)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(_STEPS, min_size=8, max_size=40))
def test_attempt_is_in_one_place_and_starts_once(redis_server: RedisServer, steps: list[Any]) -> None:
    model = _TransportModel(redis_server)
    with contextlib.closing(model.client):
        model.publish(priority=5)
        for step in steps:
            _apply_step(model, step)
            model.check_invariant()
        model.drain()
        model.check_invariant()
        event_counts = model.count_events()
        assert all(kinds["succeeded"] + kinds["lost"] == 1 for kinds in event_counts.values())
