"""Mailbox of a worker's parent process, with a real Redis and a clock that the test advances."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from jobworker.clock import ManualClock
from jobworker.domain.executions.events import EventKind
from jobworker.transport import keys
from jobworker.transport.broker.mailbox import Mailbox, WorkerFenced
from jobworker.transport.broker.messages import PendingReport
from jobworker.transport.claims import Claim, ClaimResult
from tests.servers import RedisServer

pytestmark = pytest.mark.every_redis

_INFLIGHT = keys.INFLIGHT.format(worker="w")


class _MailboxDriver:
    """Mailbox, and the Redis behind it."""

    def __init__(self, url: str, clock: ManualClock) -> None:
        self.client: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
        self.clock = clock
        self.is_disconnected = False
        self.slots = 2
        self.notifications = 0
        self.mailbox = Mailbox("w", "1", clock, self._connect, self._end)
        self.mailbox.call_soon = self._count_notification
        self.mailbox.get_credit = lambda: self.slots - len(self.mailbox.delivered)

    def receive_messages(self, count: int, starting: int) -> list[Claim]:
        """Add messages as the script `FETCH` leaves them; return their claims."""
        first = self.mailbox.allocate_tags(count)
        texts = [_make_text(f"e-{tag}") for tag in range(first, first + count)]
        entries = [(str(first + number), "q", text.encode()) for number, text in enumerate(texts)]
        for tag, _, text in entries:
            self.client.hset(_INFLIGHT, tag, f"1:q{text.decode()}")
            self.client.set(keys.RUN.format(execution=f"e-{tag}"), f"1 running w {tag}")
        self.mailbox.add_fetched(entries, starting)
        return [Claim(f"e-{tag}", 1, "w", tag) for tag, _, _ in entries]

    def start_next(self) -> Claim:
        """Pop the next message and start it."""
        fetched = self.mailbox.pop_startable()
        assert fetched is not None
        assert fetched.claim is not None
        self.mailbox.report_started(fetched.claim)
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
def mailbox_driver(redis_url: str, clock: ManualClock) -> Iterator[_MailboxDriver]:
    """Driver with an empty mailbox."""
    mailbox_driver = _MailboxDriver(redis_url, clock)
    with contextlib.closing(mailbox_driver.client):
        yield mailbox_driver


@pytest.mark.parametrize("in_the_way", ["string", "exhausted-stream"])
def test_end_refused_by_the_stream_is_reported_later(mailbox_driver: _MailboxDriver, in_the_way: str) -> None:
    mailbox_driver.receive_messages(1, starting=1)
    ticket = mailbox_driver.start_next()
    assert mailbox_driver.mailbox.flush()
    mailbox_driver.client.rename(keys.EVENTS, "kept")
    if in_the_way == "string":
        mailbox_driver.client.set(keys.EVENTS, "something else")
    else:
        mailbox_driver.client.xadd(keys.EVENTS, {"kind": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
    mailbox_driver.mailbox.report_ended(ticket, EventKind.SUCCEEDED, "{}")
    assert not mailbox_driver.mailbox.flush()
    mailbox_driver.client.rename("kept", keys.EVENTS)
    assert mailbox_driver.mailbox.flush()
    assert mailbox_driver.list_events() == [("running", ticket.execution), ("succeeded", ticket.execution)]


def test_large_results_are_sent_in_small_batches(
    mailbox_driver: _MailboxDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox_driver.slots = 40
    mailbox_driver.receive_messages(40, starting=40)
    tickets = [mailbox_driver.start_next() for _ in range(40)]
    assert mailbox_driver.mailbox.flush()
    parts: list[int] = []
    tell = mailbox_driver.mailbox._send_batch

    def note_and_tell(part: list[PendingReport], *more: int) -> list[str]:
        parts.append(len(part))
        return tell(part, *more)

    monkeypatch.setattr(mailbox_driver.mailbox, "_send_batch", note_and_tell)
    for ticket in tickets:
        mailbox_driver.mailbox.report_ended(ticket, EventKind.SUCCEEDED, json.dumps({"result": "x" * 30_000}))
    assert mailbox_driver.mailbox.flush()
    assert parts == [5] * 8
    assert [kind for kind, _ in mailbox_driver.list_events()].count("succeeded") == 40


def test_unsent_end_is_still_in_flight(mailbox_driver: _MailboxDriver) -> None:
    mailbox_driver.receive_messages(2, starting=1)
    ended = mailbox_driver.start_next()
    mailbox_driver.is_disconnected = True
    mailbox_driver.mailbox.report_ended(ended, EventKind.SUCCEEDED, "{}")
    assert not mailbox_driver.mailbox.flush()
    assert ended in mailbox_driver.mailbox.list_claims()
    mailbox_driver.is_disconnected = False
    assert mailbox_driver.mailbox.flush()
    assert ended not in mailbox_driver.mailbox.list_claims()


def test_full_redis_accepts_reports_that_free_memory(own_redis: Callable[..., RedisServer], clock: ManualClock) -> None:
    """Messages in flight fill Redis: only the acknowledgement of their ends frees memory."""
    server = own_redis()
    mailbox_driver = _MailboxDriver(server.url, clock)
    with contextlib.closing(mailbox_driver.client):
        mailbox_driver.receive_messages(3, starting=3)
        mailbox_driver.slots = 3
        tickets = [mailbox_driver.start_next() for _ in range(3)]
        assert mailbox_driver.mailbox.flush()
        mailbox_driver.client.config_set("maxmemory", 1)
        mailbox_driver.mailbox.report_ended(tickets[0], EventKind.SUCCEEDED, "{}")
        assert not mailbox_driver.mailbox.flush(), "a relay has to read what is there"
        for ticket in tickets[1:]:
            mailbox_driver.client.xtrim(keys.EVENTS, maxlen=0)
            assert mailbox_driver.mailbox.flush()
            mailbox_driver.mailbox.report_ended(ticket, EventKind.SUCCEEDED, "{}")
            assert not mailbox_driver.mailbox.flush()
        mailbox_driver.client.xtrim(keys.EVENTS, maxlen=0)
        assert mailbox_driver.mailbox.flush()
        assert mailbox_driver.mailbox.is_empty()
        assert not any(tag.isdigit() for tag in mailbox_driver.client.hkeys(_INFLIGHT)), "their messages are gone"


def test_start_and_end_are_sent_together_with_the_acknowledgement(mailbox_driver: _MailboxDriver) -> None:
    [one, two] = mailbox_driver.receive_messages(2, starting=2)
    assert (mailbox_driver.start_next(), mailbox_driver.start_next()) == (one, two)
    mailbox_driver.mailbox.report_ended(one, EventKind.SUCCEEDED, "{}")
    assert mailbox_driver.list_events() == []
    assert mailbox_driver.mailbox.flush()
    assert mailbox_driver.list_events() == [
        ("running", one.execution),
        ("running", two.execution),
        ("succeeded", one.execution),
    ]
    assert set(mailbox_driver.client.hgetall(_INFLIGHT)) == {two.token, "#"}
    assert mailbox_driver.mailbox.flush()
    assert len(mailbox_driver.list_events()) == 3


def test_message_is_not_started_before_redis_knows(mailbox_driver: _MailboxDriver) -> None:
    mailbox_driver.slots = 3
    mailbox_driver.receive_messages(3, starting=1)
    assert mailbox_driver.notifications, "somebody must come and have the rest cleared"
    assert mailbox_driver.start_next().token == "1"
    assert mailbox_driver.mailbox.pop_startable() is None
    assert mailbox_driver.mailbox.flush()
    assert mailbox_driver.client.hget(_INFLIGHT, "!") == "3"
    assert [mailbox_driver.start_next().token, mailbox_driver.start_next().token] == ["2", "3"]


def test_adopted_messages_come_first_and_must_be_cleared(mailbox_driver: _MailboxDriver) -> None:
    mailbox_driver.receive_messages(1, starting=1)
    mailbox_driver.notifications = 0
    mailbox_driver.mailbox.add_adopted([("0", "q", _make_text("e-0").encode())])
    assert mailbox_driver.notifications
    assert mailbox_driver.mailbox.pop_startable() is None
    mailbox_driver.mailbox.flush()
    assert [mailbox_driver.start_next().execution, mailbox_driver.start_next().execution] == ["e-0", "e-1"]


def test_reports_are_kept_and_nothing_starts_without_redis(mailbox_driver: _MailboxDriver) -> None:
    [one, _] = mailbox_driver.receive_messages(2, starting=2)
    mailbox_driver.start_next()
    mailbox_driver.is_disconnected = True
    mailbox_driver.mailbox.report_ended(one, EventKind.SUCCEEDED, "{}")
    assert not mailbox_driver.mailbox.flush()
    assert not mailbox_driver.mailbox.is_overdue()
    mailbox_driver.clock.advance(1.5)
    assert not mailbox_driver.mailbox.flush()
    assert mailbox_driver.mailbox.is_overdue()
    assert mailbox_driver.mailbox.pop_startable() is None
    assert mailbox_driver.mailbox.compute_fetch_size() == 0
    assert mailbox_driver.mailbox.compute_flush_delay() == pytest.approx(0.2), "the pause doubles"
    mailbox_driver.is_disconnected = False
    assert mailbox_driver.mailbox.flush_before_exit(timeout=5.0)
    assert mailbox_driver.list_events() == [("running", one.execution), ("succeeded", one.execution)]
    assert mailbox_driver.start_next().token == "2"


def test_flush_before_exit_gives_up_after_its_timeout(mailbox_driver: _MailboxDriver) -> None:
    [one] = mailbox_driver.receive_messages(1, starting=1)
    mailbox_driver.start_next()
    mailbox_driver.mailbox.report_ended(one, EventKind.SUCCEEDED, "{}")
    mailbox_driver.is_disconnected = True
    before = mailbox_driver.clock.monotonic()
    assert not mailbox_driver.mailbox.flush_before_exit(timeout=3.0)
    assert 3.0 <= mailbox_driver.clock.monotonic() - before < 4.0
    assert not mailbox_driver.mailbox.is_empty()


def test_messages_not_started_in_time_are_requeued_in_order(mailbox_driver: _MailboxDriver) -> None:
    mailbox_driver.slots = 1
    tickets = mailbox_driver.receive_messages(4, starting=1)
    mailbox_driver.start_next()
    mailbox_driver.mailbox.requeue_late()
    assert len(mailbox_driver.mailbox.prefetched) == 3
    mailbox_driver.clock.advance(0.3)
    mailbox_driver.mailbox.requeue_late()
    mailbox_driver.mailbox.flush()
    assert [
        json.loads(text)["headers"]["jobworker"]["execution"] for text in mailbox_driver.client.lrange("q", 0, -1)[::-1]
    ] == [ticket.execution for ticket in tickets[1:]]
    assert mailbox_driver.client.get(keys.RUN.format(execution=tickets[1].execution)) == "0 finished - -"
    assert mailbox_driver.client.llen(keys.READY.format(queue="q")) == 1
    assert mailbox_driver.list_events() == [("running", tickets[0].execution)]


def test_requeue_all_requeues_unstarted_and_interrupts_started_attempts(
    mailbox_driver: _MailboxDriver,
) -> None:
    [one, two] = mailbox_driver.receive_messages(2, starting=1)
    mailbox_driver.start_next()
    mailbox_driver.mailbox.requeue_all()
    mailbox_driver.mailbox.flush()
    assert mailbox_driver.list_events() == [("running", one.execution), ("interrupted", one.execution)]
    assert mailbox_driver.client.lrange("q", 0, -1) == [_make_text(two.execution)]
    assert mailbox_driver.mailbox.is_empty()


def test_claimed_attempt_is_refused_and_fenced_worker_raises(mailbox_driver: _MailboxDriver) -> None:
    run = keys.RUN.format(execution="e")
    assert mailbox_driver.mailbox.claim(Claim("e", 1, "w", "1")) is ClaimResult.RUN
    assert mailbox_driver.mailbox.claim(Claim("e", 1, "w", "1")) is ClaimResult.RUN, "its answer may have been lost"
    assert mailbox_driver.mailbox.claim(Claim("e", 1, "w", "2")) is ClaimResult.DUPLICATE
    mailbox_driver.client.set(run, "2 finished w 3")
    assert mailbox_driver.mailbox.claim(Claim("e", 1, "w", "4")) is ClaimResult.STALE
    mailbox_driver.client.set(run, "3 revoked - -")
    assert mailbox_driver.mailbox.claim(Claim("e", 3, "w", "5")) is ClaimResult.REVOKED
    assert mailbox_driver.list_events() == []
    mailbox_driver.client.set(keys.FENCE.format(worker="w"), "1")
    with pytest.raises(WorkerFenced):
        mailbox_driver.mailbox.claim(Claim("e", 4, "w", "6"))


def test_attempt_of_a_fenced_worker_is_lost_once(mailbox_driver: _MailboxDriver) -> None:
    mailbox_driver.client.set(keys.RUN.format(execution="e"), "1 running dead 7")
    mailbox_driver.client.set(keys.FENCE.format(worker="dead"), "1")
    assert mailbox_driver.mailbox.claim(Claim("e", 1, "w", "1")) is ClaimResult.DUPLICATE
    assert mailbox_driver.mailbox.claim(Claim("e", 1, "w", "1")) is ClaimResult.STALE
    assert mailbox_driver.list_events() == [("lost", "e")]


def test_foreign_message_is_acknowledged_or_rejected_with_a_reason(mailbox_driver: _MailboxDriver) -> None:
    mailbox_driver.client.hset(_INFLIGHT, mapping={"1": "1:qplain", "2": "1:qbad"})
    mailbox_driver.mailbox.allocate_tags(2)
    mailbox_driver.mailbox.add_fetched([("1", "q", b"plain"), ("2", "q", b"bad")], startable=2)
    for _ in range(2):
        assert mailbox_driver.mailbox.pop_startable()
    mailbox_driver.mailbox.acknowledge("1")
    mailbox_driver.mailbox.acknowledge("1")
    mailbox_driver.mailbox.reject("2", {"id": "x", "task": "t"}, ValueError("no"), "it cannot be read", "q")
    mailbox_driver.mailbox.flush()
    entries: Any = mailbox_driver.client.xrange(keys.EVENTS)
    [(_, fields)] = entries
    assert fields["kind"] == "rejected"
    assert json.loads(fields["data"])["message"] == "x"
    assert set(mailbox_driver.client.hgetall(_INFLIGHT)) == {"#"}
