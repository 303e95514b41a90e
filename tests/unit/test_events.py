"""Encoding of events in the Redis stream."""

import datetime as dt
from typing import Any

import pytest

from jobworker.domain.executions import events
from jobworker.domain.executions.events import NEVER_RAN_KINDS, STATE_BY_KIND, Event, EventKind, UnreadableEvent

#: Required data of some event kinds.
REQUIRED_DATA: dict[EventKind, dict[str, Any]] = {
    EventKind.DUE: {"schedule": "s", "at": "2026-03-02T12:00:00+00:00"},
    EventKind.LOG: {"level": "INFO", "logger": "l", "message": "m", "at": "2026-03-02T12:00:00+00:00"},
    EventKind.LOG_CUT: {"dropped": [1, 2]},
}


@pytest.mark.parametrize("kind", EventKind)
def test_event_encoding_round_trip(kind: EventKind) -> None:
    data = {"worker": "w1", "result": {"rows": [1, 2.5, None, "ä"]}, **REQUIRED_DATA.get(kind, {})}
    fields = events.encode(kind, "0199", 3, data)
    assert events.decode("1772452800000-7", fields) == Event("1772452800000-7", kind, "0199", 3, data)


def test_event_id_contains_position_and_time() -> None:
    event = Event("1772452800250-7", EventKind.RUNNING, "0199", 1, {})
    assert event.stream_position == (1772452800250, 7)
    assert event.at == dt.datetime(2026, 3, 2, 12, 0, 0, 250_000, tzinfo=dt.UTC)
    assert events.format_stream_id(event.stream_position) == event.id


def test_stream_ids_ordered_numerically() -> None:
    assert events.parse_stream_id("9-10") > events.parse_stream_id("9-9")
    assert events.parse_stream_id("10-0") > events.parse_stream_id("9-9")
    assert events.parse_stream_id("10") == (10, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kind": "exploded", "execution": "0199", "attempt": "1", "data": "{}"},
        {"kind": "running", "execution": "0199", "attempt": "one", "data": "{}"},
        {"kind": "running", "execution": "0199", "attempt": "1", "data": "{"},
        {"kind": "running", "execution": "0199", "attempt": "1", "data": "[]"},
    ],
)
def test_unreadable_entry_rejected_with_its_id(fields: dict[str, str]) -> None:
    with pytest.raises(UnreadableEvent, match=r"5-0"):
        events.decode("5-0", fields)


def test_nan_result_not_encoded() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        events.encode(EventKind.SUCCEEDED, "0199", 1, {"result": float("nan")})


@pytest.mark.parametrize("kind", sorted(set(STATE_BY_KIND) - NEVER_RAN_KINDS))
def test_state_event_converted_to_transition(kind: EventKind) -> None:
    move = events.to_transition(Event("1000-2", kind, "0199", 2, {"worker": "w1", "token": "t", "reason": "so"}))
    assert (move.execution, move.attempt, move.state, move.event_id) == ("0199", 2, STATE_BY_KIND[kind], (1000, 2))
    assert (move.actor, move.worker, move.token, move.reason) == ("worker:w1", "w1", "t", "so")
    assert (move.due_at, move.lost, move.interrupted, move.snoozed, move.ran) == (None, False, False, False, True)


@pytest.mark.parametrize("kind", sorted(NEVER_RAN_KINDS))
def test_never_ran_event_ends_previous_attempt(kind: EventKind) -> None:
    move = events.to_transition(Event("1000-2", kind, "0199", 2, {"worker": "w1", "reason": "so"}))
    assert (move.attempt, move.state, move.ran, move.reason) == (1, STATE_BY_KIND[kind], False, "so")
    assert move.actor == "worker:w1"


def test_rejected_event_without_error_gets_message_rejected() -> None:
    own = {"type": "DecodeError", "message": "no JSON", "traceback": None}
    assert (
        events.to_transition(Event("1-0", EventKind.REJECTED, "0199", 1, {"error": own, "reason": "so"})).error == own
    )
    move = events.to_transition(Event("1-0", EventKind.REJECTED, "0199", 1, {"reason": "so"}))
    assert move.error == {"type": "MessageRejected", "message": "so", "traceback": None}


def test_retry_due_time_computed_from_redis_clock() -> None:
    move = events.to_transition(Event("1772452800000-0", EventKind.RETRYING, "0199", 1, {"delay": 90}))
    assert move.due_at == dt.datetime(2026, 3, 2, 12, 1, 30, tzinfo=dt.UTC)
    assert move.actor == "worker"
