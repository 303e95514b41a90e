"""Waits between the attempts of an execution."""

import datetime as dt
from typing import Any

import pytest
from celery import Task

from jobworker.domain.errors import InvalidInput
from jobworker.domain.jobs import retry
from jobworker.worker.attempt import retries

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("described", "bounds"),
    [
        ({"strategy": "fixed", "delay": 30}, [(30, 30), (30, 30), (30, 30)]),
        ({"strategy": "linear", "delay": 30}, [(30, 30), (60, 60), (90, 90)]),
        ({"strategy": "exponential", "delay": 30}, [(30, 30), (60, 60), (120, 120)]),
        ({"strategy": "exponential_jitter", "delay": 30}, [(15, 45), (30, 90), (60, 180)]),
        ({"strategy": "exponential_jitter", "delay": 30, "jitter": "up"}, [(30, 45), (60, 90), (120, 180)]),
        ({"strategy": "exponential_jitter", "delay": 30, "jitter": "down"}, [(15, 30), (30, 60), (60, 120)]),
        ({"strategy": "exponential", "delay": 30, "max_delay": 45}, [(30, 30), (45, 45), (45, 45)]),
        ({"strategy": "exponential_jitter", "delay": 30, "max_delay": 100}, [(15, 45), (30, 90), (50, 100)]),
        ({"strategy": "linear"}, [(30, 30), (60, 60), (90, 90)]),
        ({"strategy": "fixed", "delay": 0}, [(0, 0), (0, 0), (0, 0)]),
        ({"delays": [1, "PT5M"]}, [(1, 1), (300, 300), (300, 300)]),
    ],
)
def test_retry_wait_bounds_by_strategy(described: dict[str, Any], bounds: list[tuple[float, float]]) -> None:
    policy = retry.parse(described)
    assert policy.decides
    assert [policy.compute_wait_bounds(number) for number in (1, 2, 3)] == bounds
    assert retry.parse(policy.to_json()) == policy


def test_overflowing_wait_limited_to_max_delay() -> None:
    policy = retry.parse({"strategy": "exponential", "delay": 30, "max_delay": "P1D"})
    assert policy.compute_wait_bounds(1000) == (86400, 86400)


def test_jittered_wait_between_bounds() -> None:
    policy = retry.parse({"strategy": "exponential_jitter", "delay": 30})
    assert [policy.compute_wait(2, chance) for chance in (0.0, 0.5, 1.0)] == [30, 60, 90]


def test_policy_with_only_max_attempts_does_not_decide() -> None:
    assert not retry.parse({"max_attempts": 3}).decides


@pytest.mark.parametrize(
    ("described", "names", "covered"),
    [
        ({}, ["ValueError"], True),
        ({"retry_on": ["OSError"]}, ["ConnectionError", "OSError"], True),
        ({"retry_on": ["OSError"]}, ["ValueError"], False),
        ({"not_on": ["ValueError"]}, ["ValueError"], False),
        ({"retry_on": ["OSError"], "not_on": ["FileNotFoundError"]}, ["FileNotFoundError", "OSError"], False),
    ],
)
def test_retryable_exceptions_selected_by_name(described: dict[str, Any], names: list[str], covered: bool) -> None:
    assert retry.parse({"strategy": "fixed", **described}).is_retryable(names) is covered


@pytest.mark.parametrize(
    ("described", "pointer", "code"),
    [
        ("often", "/retry", "wrong_type"),
        ({"strategy": "quadratic"}, "/retry/strategy", "not_allowed"),
        ({"strategy": "fixed", "delay": -1}, "/retry/delay", "not_allowed"),
        ({"strategy": "fixed", "delay": "soon"}, "/retry/delay", "wrong_type"),
        ({"strategy": "fixed", "max_delay": -1}, "/retry/max_delay", "not_allowed"),
        ({"delays": []}, "/retry/delays", "wrong_type"),
        ({"delays": [1, -2]}, "/retry/delays/1", "not_allowed"),
        ({"delays": [1], "strategy": "fixed"}, "/retry/delays", "ambiguous"),
        ({"max_attempts": 0}, "/retry/max_attempts", "not_allowed"),
        ({"max_attempts": True}, "/retry/max_attempts", "wrong_type"),
        ({"strategy": "fixed", "jitter": "sideways"}, "/retry/jitter", "not_allowed"),
        ({"strategy": "fixed", "retry_on": "OSError"}, "/retry/retry_on", "wrong_type"),
        ({"retry_on": ["OSError"]}, "/retry/strategy", "missing"),
        ({"strategy": "fixed", "forever": True}, "/retry/forever", "unknown_field"),
    ],
)
def test_invalid_retry_policy_rejected(described: Any, pointer: str, code: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        retry.parse(described)
    assert [(problem.pointer, problem.code) for problem in refused.value.errors] == [(pointer, code)]


class Unreachable(ConnectionError):
    """An exception of a user's module."""


def test_exception_names_include_base_classes() -> None:
    assert retry.list_exception_names(Unreachable) == [
        *("Unreachable", f"{__name__}.Unreachable", "ConnectionError", "builtins.ConnectionError"),
        *("OSError", "builtins.OSError", "Exception", "builtins.Exception"),
        *("BaseException", "builtins.BaseException"),
    ]


@pytest.mark.parametrize(
    ("names", "used", "limit", "wait"),
    [
        (["OSError"], 0, None, 30),
        (["OSError"], 1, 2, 60),
        (["OSError"], 2, 2, None),
        (["OSError"], 0, 0, None),
        (["ValueError"], 0, None, None),
    ],
)
def test_next_wait_depends_on_limit_and_exception(
    names: list[str], used: int, limit: int | None, wait: float | None
) -> None:
    policy = retry.parse({"strategy": "linear", "delay": 30, "retry_on": ["OSError"]})
    assert policy.compute_next_wait(names, used, limit, 0.5) == wait


def test_planned_attempts_accumulate_waits() -> None:
    planned = retry.plan_attempts(retry.parse({"strategy": "exponential_jitter", "delay": 30}), NOON, 4)
    ahead = [tuple((moment - NOON).total_seconds() for moment in attempt.due) for attempt in planned]
    assert ahead == [(0, 0), (15, 45), (45, 135), (105, 315)]


@pytest.mark.parametrize("when", [float("inf"), float("nan"), 1e300, 367 * 86400])
def test_unreachable_celery_retry_countdown_rejected(when: float) -> None:
    with pytest.raises(ValueError, match="at most 366 days away"):
        retries.to_seconds(when, Task())
    assert (retries.to_seconds(None, Task()), retries.to_seconds(5, Task())) == (0.0, 5.0)
