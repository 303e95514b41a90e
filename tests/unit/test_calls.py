"""Calls from Python, as a worker tells of them."""

import datetime as dt
from typing import Any

import pytest

from jobworker.domain import calls
from jobworker.domain.parameters import VARIADIC, Parameter

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)
EXECUTION = "01995b7e-0000-7000-8000-000000000001"
TOLD: dict[str, Any] = {
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


def test_a_call_is_read() -> None:
    call = calls.read(EXECUTION, TOLD, NOON)
    assert (call.task, call.queue, call.priority, call.by) == ("send", "default", 5, "python:host")
    assert call.at == NOON - dt.timedelta(minutes=1)


def test_a_caller_whose_clock_is_ahead_has_called_when_it_was_heard_of() -> None:
    assert calls.read(EXECUTION, {**TOLD, "at": "2026-03-02T15:00:00+02:00"}, NOON).at == NOON


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
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        calls.read(EXECUTION, {**TOLD, **change}, NOON)


def test_an_execution_needs_an_id() -> None:
    with pytest.raises(ValueError, match="no call"):
        calls.read("1", TOLD, NOON)


@pytest.mark.parametrize(
    ("names", "args", "kwargs", "given", "by_name"),
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
def test_positions_get_their_names(names: list[str], args: Any, kwargs: Any, given: Any, by_name: bool) -> None:
    accepted = [VARIADIC if name == "**" else Parameter(name, "any") for name in names]
    call = calls.read(EXECUTION, {**TOLD, "args": args, "kwargs": kwargs}, NOON)
    assert calls.parameters(call, accepted) == (given, by_name)
