"""InFlight of a worker's parent process, with a real Redis and a clock that the test advances."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from jobworker.clock import ManualClock
from jobworker.domain.executions.events import EventKind
from jobworker.transport import keys
from jobworker.transport.broker.in_flight import InFlight
from jobworker.transport.broker.report_outbox import PendingReport, ReportOutbox, WorkerFenced
from jobworker.transport.claims import Claim, ClaimResult
from tests.servers import RedisServer

pytestmark = pytest.mark.every_redis

_INFLIGHT = keys.INFLIGHT.format(worker="w")


class _InFlightDriver:
    """InFlight, and the Redis behind it."""

    def __init__(self, url: str, clock: ManualClock) -> None:
        self.client: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
        self.clock = clock
        self.is_disconnected = False
        self.slots = 2
        self.notifications = 0
        self.in_flight = InFlight(ReportOutbox("w", clock, self._connect, self._end), "1", clock)
        self.in_flight.outbox.call_soon = self._count_notification
        self.in_flight.get_credit = lambda: self.slots - len(self.in_flight.delivered)

    def receive_messages(self, count: int, starting: int) -> list[Claim]:
        """Add messages as the script `FETCH` leaves them; return their claims."""
        first = self.in_flight.allocate_tags(count)
        texts = [_make_text(f"e-{tag}") for tag in range(first, first + count)]
        entries = [(str(first + number), "q", text.encode()) for number, text in enumerate(texts)]
        for tag, _, text in entries:
            self.client.hset(_INFLIGHT, tag, f"1:q{text.decode()}")
            self.client.set(keys.RUN.format(execution=f"e-{tag}"), f"1 running w {tag}")
        self.in_flight.add_fetched(entries, starting)
        return [Claim(f"e-{tag}", 1, "w", tag) for tag, _, _ in entries]

    def start_next(self) -> Claim:
        """Pop the next message and start it."""
        fetched = self.in_flight.pop_startable()
        assert fetched is not None
        assert fetched.claim is not None
        self.in_flight.report_started(fetched.claim)
        return fetched.claim

    def list_events(self) -> list[tuple[str, str]]:
        entries: Any = self.client.xrange(keys.EVENTS)
        return [(fields["kind"], fields["execution"]) for _, fields in entries]

    def _connect(self) -> redis.Redis:
        if self.is_disconnected:
            raise redis.ConnectionError("away")
        return self.client

    def _count_notification(self) -> None:
        self.notifications += 1

    def _end(self) -> None:
        """Do nothing; in a worker this ends the process."""


def _make_text(execution: str) -> str:
    return f'{{"headers":{{"jobworker":{{"execution":"{execution}","attempt":1,"job":"j"}}}}}}'


@pytest.fixture
def driver(redis_url: str, clock: ManualClock) -> Iterator[_InFlightDriver]:
    """Driver with an empty in_flight."""
    driver = _InFlightDriver(redis_url, clock)
    with contextlib.closing(driver.client):
        yield driver


@pytest.mark.parametrize("in_the_way", ["string", "exhausted-stream"])
def test_end_refused_by_the_stream_is_reported_later(driver: _InFlightDriver, in_the_way: str) -> None:
    driver.receive_messages(1, starting=1)
    ticket = driver.start_next()
    assert driver.in_flight.outbox.flush()
    driver.client.rename(keys.EVENTS, "kept")
    if in_the_way == "string":
        driver.client.set(keys.EVENTS, "something else")
    else:
        driver.client.xadd(keys.EVENTS, {"kind": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
    driver.in_flight.report_ended(ticket, EventKind.SUCCEEDED, "{}")
    assert not driver.in_flight.outbox.flush()
    driver.client.rename("kept", keys.EVENTS)
    assert driver.in_flight.outbox.flush()
    assert driver.list_events() == [("running", ticket.execution), ("succeeded", ticket.execution)]


def test_large_results_are_sent_in_small_batches(driver: _InFlightDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.slots = 40
    driver.receive_messages(40, starting=40)
    tickets = [driver.start_next() for _ in range(40)]
    assert driver.in_flight.outbox.flush()
    parts: list[int] = []
    tell = driver.in_flight.outbox._send_batch

    def note_and_tell(part: list[PendingReport], *more: int) -> list[str]:
        parts.append(len(part))
        return tell(part, *more)

    monkeypatch.setattr(driver.in_flight.outbox, "_send_batch", note_and_tell)
    for ticket in tickets:
        driver.in_flight.report_ended(ticket, EventKind.SUCCEEDED, json.dumps({"result": "x" * 30_000}))
    assert driver.in_flight.outbox.flush()
    assert parts == [5] * 8
    assert [kind for kind, _ in driver.list_events()].count("succeeded") == 40


def test_unsent_end_is_still_in_flight(driver: _InFlightDriver) -> None:
    driver.receive_messages(2, starting=1)
    ended = driver.start_next()
    driver.is_disconnected = True
    driver.in_flight.report_ended(ended, EventKind.SUCCEEDED, "{}")
    assert not driver.in_flight.outbox.flush()
    assert ended in driver.in_flight.list_claims()
    driver.is_disconnected = False
    assert driver.in_flight.outbox.flush()
    assert ended not in driver.in_flight.list_claims()


def test_full_redis_accepts_reports_that_free_memory(own_redis: Callable[..., RedisServer], clock: ManualClock) -> None:
    """Messages in flight fill Redis: only the acknowledgement of their ends frees memory."""
    server = own_redis()
    driver = _InFlightDriver(server.url, clock)
    with contextlib.closing(driver.client):
        driver.receive_messages(3, starting=3)
        driver.slots = 3
        tickets = [driver.start_next() for _ in range(3)]
        assert driver.in_flight.outbox.flush()
        driver.client.config_set("maxmemory", 1)
        driver.in_flight.report_ended(tickets[0], EventKind.SUCCEEDED, "{}")
        assert not driver.in_flight.outbox.flush(), "a relay has to read what is there"
        for ticket in tickets[1:]:
            driver.client.xtrim(keys.EVENTS, maxlen=0)
            assert driver.in_flight.outbox.flush()
            driver.in_flight.report_ended(ticket, EventKind.SUCCEEDED, "{}")
            assert not driver.in_flight.outbox.flush()
        driver.client.xtrim(keys.EVENTS, maxlen=0)
        assert driver.in_flight.outbox.flush()
        assert driver.in_flight.is_empty()
        assert not any(tag.isdigit() for tag in driver.client.hkeys(_INFLIGHT)), "their messages are gone"


def test_start_and_end_are_sent_together_with_the_acknowledgement(driver: _InFlightDriver) -> None:
    [first, second] = driver.receive_messages(2, starting=2)
    assert (driver.start_next(), driver.start_next()) == (first, second)
    driver.in_flight.report_ended(first, EventKind.SUCCEEDED, "{}")
    assert driver.list_events() == []
    assert driver.in_flight.outbox.flush()
    assert driver.list_events() == [
        ("running", first.execution),
        ("running", second.execution),
        ("succeeded", first.execution),
    ]
    assert set(driver.client.hgetall(_INFLIGHT)) == {second.token, "#"}
    assert driver.in_flight.outbox.flush()
    assert len(driver.list_events()) == 3


def test_message_is_not_started_before_redis_knows(driver: _InFlightDriver) -> None:
    driver.slots = 3
    driver.receive_messages(3, starting=1)
    assert driver.notifications, "somebody must come and have the rest cleared"
    assert driver.start_next().token == "1"
    assert driver.in_flight.pop_startable() is None
    assert driver.in_flight.outbox.flush()
    assert driver.client.hget(_INFLIGHT, "!") == "3"
    assert [driver.start_next().token, driver.start_next().token] == ["2", "3"]


def test_adopted_messages_come_first_and_must_be_cleared(driver: _InFlightDriver) -> None:
    driver.receive_messages(1, starting=1)
    driver.notifications = 0
    driver.in_flight.add_adopted([("0", "q", _make_text("e-0").encode())])
    assert driver.notifications
    assert driver.in_flight.pop_startable() is None
    driver.in_flight.outbox.flush()
    assert [driver.start_next().execution, driver.start_next().execution] == ["e-0", "e-1"]


def test_reports_are_kept_and_nothing_starts_without_redis(driver: _InFlightDriver) -> None:
    [first, _] = driver.receive_messages(2, starting=2)
    driver.start_next()
    driver.is_disconnected = True
    driver.in_flight.report_ended(first, EventKind.SUCCEEDED, "{}")
    assert not driver.in_flight.outbox.flush()
    assert not driver.in_flight.outbox.is_overdue()
    driver.clock.advance(1.5)
    assert not driver.in_flight.outbox.flush()
    assert driver.in_flight.outbox.is_overdue()
    assert driver.in_flight.pop_startable() is None
    assert driver.in_flight.compute_fetch_size() == 0
    assert driver.in_flight.outbox.compute_flush_delay() == pytest.approx(0.2), "the pause doubles"
    driver.is_disconnected = False
    assert driver.in_flight.outbox.flush_before_exit(timeout=5.0)
    assert driver.list_events() == [("running", first.execution), ("succeeded", first.execution)]
    assert driver.start_next().token == "2"


def test_flush_before_exit_gives_up_after_its_timeout(driver: _InFlightDriver) -> None:
    [message] = driver.receive_messages(1, starting=1)
    driver.start_next()
    driver.in_flight.report_ended(message, EventKind.SUCCEEDED, "{}")
    driver.is_disconnected = True
    before = driver.clock.monotonic()
    assert not driver.in_flight.outbox.flush_before_exit(timeout=3.0)
    assert 3.0 <= driver.clock.monotonic() - before < 4.0
    assert not driver.in_flight.is_empty()


def test_messages_not_started_in_time_are_requeued_in_order(driver: _InFlightDriver) -> None:
    driver.slots = 1
    tickets = driver.receive_messages(4, starting=1)
    driver.start_next()
    driver.in_flight.requeue_late()
    assert len(driver.in_flight.prefetched) == 3
    driver.clock.advance(0.3)
    driver.in_flight.requeue_late()
    driver.in_flight.outbox.flush()
    assert [
        json.loads(text)["headers"]["jobworker"]["execution"] for text in driver.client.lrange("q", 0, -1)[::-1]
    ] == [ticket.execution for ticket in tickets[1:]]
    assert driver.client.get(keys.RUN.format(execution=tickets[1].execution)) == "0 finished - -"
    assert driver.client.llen(keys.READY.format(queue="q")) == 1
    assert driver.list_events() == [("running", tickets[0].execution)]


def test_requeue_all_requeues_unstarted_and_interrupts_started_attempts(
    driver: _InFlightDriver,
) -> None:
    [first, second] = driver.receive_messages(2, starting=1)
    driver.start_next()
    driver.in_flight.requeue_all()
    driver.in_flight.outbox.flush()
    assert driver.list_events() == [("running", first.execution), ("interrupted", first.execution)]
    assert driver.client.lrange("q", 0, -1) == [_make_text(second.execution)]
    assert driver.in_flight.is_empty()


def test_claimed_attempt_is_refused_and_fenced_worker_raises(driver: _InFlightDriver) -> None:
    run = keys.RUN.format(execution="e")
    assert driver.in_flight.claim(Claim("e", 1, "w", "1")) is ClaimResult.RUN
    assert driver.in_flight.claim(Claim("e", 1, "w", "1")) is ClaimResult.RUN, "its answer may have been lost"
    assert driver.in_flight.claim(Claim("e", 1, "w", "2")) is ClaimResult.DUPLICATE
    driver.client.set(run, "2 finished w 3")
    assert driver.in_flight.claim(Claim("e", 1, "w", "4")) is ClaimResult.STALE
    driver.client.set(run, "3 revoked - -")
    assert driver.in_flight.claim(Claim("e", 3, "w", "5")) is ClaimResult.REVOKED
    assert driver.list_events() == []
    driver.client.set(keys.FENCE.format(worker="w"), "1")
    with pytest.raises(WorkerFenced):
        driver.in_flight.claim(Claim("e", 4, "w", "6"))


def test_attempt_of_a_fenced_worker_is_lost_once(driver: _InFlightDriver) -> None:
    driver.client.set(keys.RUN.format(execution="e"), "1 running dead 7")
    driver.client.set(keys.FENCE.format(worker="dead"), "1")
    assert driver.in_flight.claim(Claim("e", 1, "w", "1")) is ClaimResult.DUPLICATE
    assert driver.in_flight.claim(Claim("e", 1, "w", "1")) is ClaimResult.STALE
    assert driver.list_events() == [("lost", "e")]


def test_foreign_message_is_acknowledged_or_rejected_with_a_reason(driver: _InFlightDriver) -> None:
    driver.client.hset(_INFLIGHT, mapping={"1": "1:qplain", "2": "1:qbad"})
    driver.in_flight.allocate_tags(2)
    driver.in_flight.add_fetched([("1", "q", b"plain"), ("2", "q", b"bad")], startable=2)
    for _ in range(2):
        assert driver.in_flight.pop_startable()
    driver.in_flight.acknowledge("1")
    driver.in_flight.acknowledge("1")
    driver.in_flight.reject("2", {"id": "x", "task": "t"}, ValueError("no"), "it cannot be read", "q")
    driver.in_flight.outbox.flush()
    entries: Any = driver.client.xrange(keys.EVENTS)
    [(_, fields)] = entries
    assert fields["kind"] == "rejected"
    assert json.loads(fields["data"])["message"] == "x"
    assert set(driver.client.hgetall(_INFLIGHT)) == {"#"}
