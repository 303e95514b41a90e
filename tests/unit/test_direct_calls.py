"""Direct calls as workers report them."""

import datetime as dt
from typing import Any

import pytest
import structlog.testing

from jobworker.clock import ManualClock
from jobworker.domain.executions import direct_call, events
from jobworker.domain.jobs.parameters import VARIADIC, Parameter
from jobworker.worker.attempt import direct_calls
from jobworker.worker.attempt.delivery import EXECUTION_HEADER

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)
EXECUTION = "01995b7e-0000-7000-8000-000000000001"
CALL_DATA: dict[str, Any] = {
    "by": "python:host",
    "at": "2026-03-02T11:59:00+00:00",
    "task": "send",
    "queue": "default",
    "priority": 5,
    "correlation_id": "c",
    "args": [1],
    "kwargs": {"b": 2},
    "embedded": {},
}


def test_direct_call_event_parsed() -> None:
    call = direct_call.parse(EXECUTION, CALL_DATA, NOON)
    assert (call.task, call.queue, call.priority, call.caller) == ("send", "default", 5, "python:host")
    assert call.called_at == NOON - dt.timedelta(minutes=1)


def test_future_call_time_replaced_by_record_time() -> None:
    assert direct_call.parse(EXECUTION, {**CALL_DATA, "at": "2026-03-02T15:00:00+02:00"}, NOON).called_at == NOON


@pytest.mark.parametrize(
    "change",
    [
        {"task": ""},
        {"task": "x" * 256},
        {"task": None},
        {"queue": ""},
        {"queue": "x" * 65},
        {"queue": None},
        {"priority": 10},
        {"priority": "high"},
        {"args": {}},
        {"kwargs": []},
        {"embedded": None},
        {"at": "soon"},
        {"at": None},
        {"args": ["a\0b"]},
        {"kwargs": {"b": 2**70}},
        {"embedded": {"chain": [{"args": [float("nan")]}]}},
    ],
)
def test_invalid_direct_call_data_rejected(change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        direct_call.parse(EXECUTION, {**CALL_DATA, **change}, NOON)


def test_direct_call_with_invalid_execution_id_rejected() -> None:
    with pytest.raises(ValueError, match="not a direct call"):
        direct_call.parse("1", CALL_DATA, NOON)


@pytest.mark.parametrize(
    ("names", "args", "kwargs", "parameters", "by_name"),
    [
        (["a", "b"], [1], {"b": 2}, {"a": 1, "b": 2}, True),
        (["a", "b"], [], {}, {}, True),
        (["a", "b"], [1, 2], {}, {"a": 1, "b": 2}, True),
        (["a", "**"], [1], {"z": 2}, {"a": 1, "z": 2}, True),
        (["a"], [1, 2], {"b": 3}, {"*": [1, 2], "b": 3}, False),
        (["**"], [1], {}, {"*": [1]}, False),
        ([], [1], {}, {"*": [1]}, False),
        (["a"], [1], {"a": 2}, {"*": [1], "a": 2}, False),
    ],
)
def test_positional_arguments_bound_to_parameter_names(
    names: list[str], args: Any, kwargs: Any, parameters: Any, by_name: bool
) -> None:
    accepted = [VARIADIC if name == "**" else Parameter(name, "any") for name in names]
    call = direct_call.parse(EXECUTION, {**CALL_DATA, "args": args, "kwargs": kwargs}, NOON)
    assert direct_call.bind_parameters(call, accepted) == (parameters, by_name)


DATE = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)


def _make_deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        (("\ud800",), {}, "surrogate"),
        ((float("nan"),), {}, "NaN"),
        (("a\0b",), {}, "NUL (\\u0000); leave it out (at /args/0)"),
        ((), {"b": 2**70}, "64 bits"),
        ((), {"b": {"\ud800": 1}}, "surrogate"),
        ((_make_deep(150),), {}, "100 levels"),
        ((), {"b": {1: "a", "1": "b"}}, "twice"),
        ((float("inf"),), {}, "Infinity is not JSON"),
    ],
)
def test_unstorable_arguments_rejected_and_left_out_of_history(args: Any, kwargs: Any, why: str) -> None:
    with pytest.raises(ValueError, match="task send cannot be called like this: its arguments contain") as refused:
        direct_calls.build_options(ManualClock(NOON), "send", args, kwargs, {}, None, None, routed=False)
    assert why in str(refused.value)
    # Another program may send such a message without this check.
    header = {"execution": EXECUTION, "called": {"by": "python:host", "at": CALL_DATA["at"]}}
    about = {EXECUTION_HEADER: header, "task": "send"}
    with structlog.testing.capture_logs() as logged:
        assert direct_calls.encode_called_event(about, (args, kwargs, {}), {"routing_key": "default"}, 4) is None
    assert [entry["event"] for entry in logged] == ["call_not_in_history"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("celery.starmap", {}, "call them with a group"),
        ("send", {"routing_key": "x", "exchange": "y"}, "name a queue, not an exchange or a routing_key"),
    ],
)
def test_calls_that_bypass_history_rejected(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        direct_calls.build_options(ManualClock(NOON), name, (), {}, options, None, None, routed=False)


def test_kombu_encoded_types_kept_in_call_event() -> None:
    parameters = {"when": DATE, "raw": b"x", "deep": _make_deep(90)}
    added = direct_calls.build_options(ManualClock(NOON), "send", (), parameters, {}, None, None, routed=False)
    about = {**added["headers"], "task": "send"}
    text = direct_calls.encode_called_event(about, ((), parameters, {}), {"routing_key": "default"}, 4)
    assert text is not None
    call = direct_call.parse(EXECUTION, events.decode("1-0", {"kind": "called", "data": text}).data, NOON)
    assert call.kwargs["when"] == {"__type__": "datetime", "__value__": DATE.isoformat()}


def test_call_arguments_absent_from_headers() -> None:
    added = direct_calls.build_options(
        ManualClock(NOON), "send", ("hush",), {"b": "hush"}, {}, None, None, routed=False
    )
    assert (added["argsrepr"], added["kwargsrepr"]) == ("(…)", "{…}")
    options = {"argsrepr": "('shown',)"}
    added = direct_calls.build_options(ManualClock(NOON), "send", ("hush",), {}, options, None, None, routed=False)
    assert added["argsrepr"] == "('shown',)"
