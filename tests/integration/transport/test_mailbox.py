"""What a worker's parent process remembers: with a real Redis, and a clock that stands still until it is moved."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from jobworker.clock import ManualClock
from jobworker.domain.events import EventKind
from jobworker.transport import keys
from jobworker.transport.claims import ClaimResult, Claim
from jobworker.transport.mailbox import WorkerFenced, Mailbox
from jobworker.transport.messages import PendingReport
from tests.servers import RedisServer

pytestmark = pytest.mark.every_redis

_INFLIGHT = keys.INFLIGHT.format(worker="w")


class _MailboxDriver:
    """A mailbox, and the Redis behind it."""

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
        """Messages as `FETCH` leaves them."""
        first = self.mailbox.allocate_tags(count)
        texts = [_make_text(f"e-{tag}") for tag in range(first, first + count)]
        entries = [(str(first + number), "q", text.encode()) for number, text in enumerate(texts)]
        for tag, _, text in entries:
            self.client.hset(_INFLIGHT, tag, f"1:q{text.decode()}")
            self.client.set(keys.RUN.format(execution=f"e-{tag}"), f"1 running w {tag}")
        self.mailbox.add_fetched(entries, starting)
        return [Claim(f"e-{tag}", 1, "w", tag) for tag, _, _ in entries]

    def start_next(self) -> Claim:
        """Hand one over, and start it."""
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
        """In a worker this ends the process."""


def _make_text(execution: str) -> str:
    return f'{{"headers":{{"jobworker":{{"execution":"{execution}","attempt":1,"job":"j"}}}}}}'


@pytest.fixture
def box(redis_url: str, clock: ManualClock) -> Iterator[_MailboxDriver]:
    """An empty one."""
    box = _MailboxDriver(redis_url, clock)
    with contextlib.closing(box.client):
        yield box


@pytest.mark.parametrize("in_the_way", ["string", "exhausted-stream"])
def test_an_end_that_the_stream_refuses_is_reported_when_it_takes_it_again(box: _MailboxDriver, in_the_way: str) -> None:
    box.receive_messages(1, starting=1)
    ticket = box.start_next()
    assert box.mailbox.flush()
    box.client.rename(keys.EVENTS, "kept")
    if in_the_way == "string":
        box.client.set(keys.EVENTS, "something else")
    else:
        box.client.xadd(keys.EVENTS, {"kind": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
    box.mailbox.report_ended(ticket, EventKind.SUCCEEDED, "{}")
    assert not box.mailbox.flush()
    box.client.rename("kept", keys.EVENTS)
    assert box.mailbox.flush()
    assert box.list_events() == [("running", ticket.execution), ("succeeded", ticket.execution)]


def test_many_large_results_leave_a_few_at_a_time(box: _MailboxDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    box.slots = 40
    box.receive_messages(40, starting=40)
    tickets = [box.start_next() for _ in range(40)]
    assert box.mailbox.flush()
    parts: list[int] = []
    tell = box.mailbox._send_batch

    def note_and_tell(part: list[PendingReport], *more: int) -> list[str]:
        parts.append(len(part))
        return tell(part, *more)

    monkeypatch.setattr(box.mailbox, "_tell", note_and_tell)
    for ticket in tickets:
        box.mailbox.report_ended(ticket, EventKind.SUCCEEDED, json.dumps({"result": "x" * 30_000}))
    assert box.mailbox.flush()
    assert parts == [5] * 8
    assert [kind for kind, _ in box.list_events()].count("succeeded") == 40


def test_an_end_that_redis_has_not_taken_is_still_in_hand(box: _MailboxDriver) -> None:
    box.receive_messages(2, starting=1)
    ended = box.start_next()
    box.is_disconnected = True
    box.mailbox.report_ended(ended, EventKind.SUCCEEDED, "{}")
    assert not box.mailbox.flush()
    assert ended in box.mailbox.list_claims()
    box.is_disconnected = False
    assert box.mailbox.flush()
    assert ended not in box.mailbox.list_claims()


def test_a_full_redis_takes_reports_while_it_holds_none_that_a_relay_could_free(
    own_redis: Callable[..., RedisServer], clock: ManualClock
) -> None:
    """Messages in hand fill it: nothing but the acknowledgement of their ends makes room."""
    server = own_redis()
    box = _MailboxDriver(server.url, clock)
    with contextlib.closing(box.client):
        box.receive_messages(3, starting=3)
        box.slots = 3
        tickets = [box.start_next() for _ in range(3)]
        assert box.mailbox.flush()
        box.client.config_set("maxmemory", 1)
        box.mailbox.report_ended(tickets[0], EventKind.SUCCEEDED, "{}")
        assert not box.mailbox.flush(), "a relay has to read what is there"
        for ticket in tickets[1:]:
            box.client.xtrim(keys.EVENTS, maxlen=0)
            assert box.mailbox.flush()
            box.mailbox.report_ended(ticket, EventKind.SUCCEEDED, "{}")
            assert not box.mailbox.flush()
        box.client.xtrim(keys.EVENTS, maxlen=0)
        assert box.mailbox.flush()
        assert box.mailbox.is_empty()
        assert not any(tag.isdigit() for tag in box.client.hkeys(_INFLIGHT)), "their messages are gone"


def test_start_and_end_leave_together_with_the_acknowledgement(box: _MailboxDriver) -> None:
    [one, two] = box.receive_messages(2, starting=2)
    assert (box.start_next(), box.start_next()) == (one, two)
    box.mailbox.report_ended(one, EventKind.SUCCEEDED, "{}")
    assert box.list_events() == []
    assert box.mailbox.flush()
    assert box.list_events() == [("running", one.execution), ("running", two.execution), ("succeeded", one.execution)]
    assert set(box.client.hgetall(_INFLIGHT)) == {two.token, "#"}
    assert box.mailbox.flush()
    assert len(box.list_events()) == 3


def test_what_may_not_start_yet_is_not_handed_over_until_redis_knows(box: _MailboxDriver) -> None:
    box.slots = 3
    box.receive_messages(3, starting=1)
    assert box.notifications, "somebody must come and have the rest cleared"
    assert box.start_next().token == "1"
    assert box.mailbox.pop_startable() is None
    assert box.mailbox.flush()
    assert box.client.hget(_INFLIGHT, "!") == "3"
    assert [box.start_next().token, box.start_next().token] == ["2", "3"]


def test_adopted_messages_come_first_and_ask_to_be_cleared(box: _MailboxDriver) -> None:
    box.receive_messages(1, starting=1)
    box.notifications = 0
    box.mailbox.add_adopted([("0", "q", _make_text("e-0").encode())])
    assert box.notifications
    assert box.mailbox.pop_startable() is None
    box.mailbox.flush()
    assert [box.start_next().execution, box.start_next().execution] == ["e-0", "e-1"]


def test_reports_are_kept_while_redis_is_away_and_nothing_begins(box: _MailboxDriver) -> None:
    [one, _] = box.receive_messages(2, starting=2)
    box.start_next()
    box.is_disconnected = True
    box.mailbox.report_ended(one, EventKind.SUCCEEDED, "{}")
    assert not box.mailbox.flush()
    assert not box.mailbox.is_overdue()
    box.clock.advance(1.5)
    assert not box.mailbox.flush()
    assert box.mailbox.is_overdue()
    assert box.mailbox.pop_startable() is None
    assert box.mailbox.compute_fetch_size() == 0
    assert box.mailbox.compute_flush_delay() == pytest.approx(0.2), "the pause doubles"
    box.is_disconnected = False
    assert box.mailbox.flush_before_exit(timeout=5.0)
    assert box.list_events() == [("running", one.execution), ("succeeded", one.execution)]
    assert box.start_next().token == "2"


def test_giving_up_on_the_last_reports_takes_as_long_as_was_said(box: _MailboxDriver) -> None:
    [one] = box.receive_messages(1, starting=1)
    box.start_next()
    box.mailbox.report_ended(one, EventKind.SUCCEEDED, "{}")
    box.is_disconnected = True
    before = box.clock.monotonic()
    assert not box.mailbox.flush_before_exit(timeout=3.0)
    assert 3.0 <= box.clock.monotonic() - before < 4.0
    assert not box.mailbox.is_empty()


def test_what_did_not_start_in_time_goes_back_in_its_order(box: _MailboxDriver) -> None:
    box.slots = 1
    tickets = box.receive_messages(4, starting=1)
    box.start_next()
    box.mailbox.requeue_late()
    assert len(box.mailbox.prefetched) == 3
    box.clock.advance(0.3)
    box.mailbox.requeue_late()
    box.mailbox.flush()
    assert [json.loads(text)["headers"]["jobworker"]["execution"] for text in box.client.lrange("q", 0, -1)[::-1]] == [
        ticket.execution for ticket in tickets[1:]
    ]
    assert box.client.get(keys.RUN.format(execution=tickets[1].execution)) == "0 finished - -"
    assert box.client.llen(keys.READY.format(queue="q")) == 1
    assert box.list_events() == [("running", tickets[0].execution)]


def test_stopping_gives_back_what_was_not_started_and_reports_the_rest_as_interrupted(box: _MailboxDriver) -> None:
    [one, two] = box.receive_messages(2, starting=1)
    box.start_next()
    box.mailbox.requeue_all()
    box.mailbox.flush()
    assert box.list_events() == [("running", one.execution), ("interrupted", one.execution)]
    assert box.client.lrange("q", 0, -1) == [_make_text(two.execution)]
    assert box.mailbox.is_empty()


def test_attempt_that_another_has_is_refused_and_a_fenced_worker_ends(box: _MailboxDriver) -> None:
    run = keys.RUN.format(execution="e")
    assert box.mailbox.claim(Claim("e", 1, "w", "1")) is ClaimResult.RUN
    assert box.mailbox.claim(Claim("e", 1, "w", "1")) is ClaimResult.RUN, "its answer may have been lost"
    assert box.mailbox.claim(Claim("e", 1, "w", "2")) is ClaimResult.DUPLICATE
    box.client.set(run, "2 finished w 3")
    assert box.mailbox.claim(Claim("e", 1, "w", "4")) is ClaimResult.STALE
    box.client.set(run, "3 revoked - -")
    assert box.mailbox.claim(Claim("e", 3, "w", "5")) is ClaimResult.REVOKED
    assert box.list_events() == []
    box.client.set(keys.FENCE.format(worker="w"), "1")
    with pytest.raises(WorkerFenced):
        box.mailbox.claim(Claim("e", 4, "w", "6"))


def test_attempt_whose_worker_was_given_up_is_lost_once(box: _MailboxDriver) -> None:
    box.client.set(keys.RUN.format(execution="e"), "1 running dead 7")
    box.client.set(keys.FENCE.format(worker="dead"), "1")
    assert box.mailbox.claim(Claim("e", 1, "w", "1")) is ClaimResult.DUPLICATE
    assert box.mailbox.claim(Claim("e", 1, "w", "1")) is ClaimResult.STALE
    assert box.list_events() == [("lost", "e")]


def test_message_that_is_no_attempt_is_done_without_a_word_or_with_its_reason(box: _MailboxDriver) -> None:
    box.client.hset(_INFLIGHT, mapping={"1": "1:qplain", "2": "1:qbad"})
    box.mailbox.allocate_tags(2)
    box.mailbox.add_fetched([("1", "q", b"plain"), ("2", "q", b"bad")], startable=2)
    for _ in range(2):
        assert box.mailbox.pop_startable()
    box.mailbox.acknowledge("1")
    box.mailbox.acknowledge("1")
    box.mailbox.reject("2", {"id": "x", "task": "t"}, ValueError("no"), "it cannot be read", "q")
    box.mailbox.flush()
    entries: Any = box.client.xrange(keys.EVENTS)
    [(_, fields)] = entries
    assert fields["kind"] == "rejected"
    assert json.loads(fields["data"])["message"] == "x"
    assert set(box.client.hgetall(_INFLIGHT)) == {"#"}
