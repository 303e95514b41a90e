"""Calls by position of jobs that take a context: the caller's arguments do not include the context."""

import logging
from typing import Any

import pytest

from jobworker import Context, job
from jobworker.declare import reset_current_context, set_current_context


def _first(context: Context, a: int, b: int = 2) -> tuple[Any, ...]:
    """Return the arguments of a job whose context is its first parameter."""
    return context.job, a, b


def _second(a: int, context: Context, *rest: int, b: int = 2) -> tuple[Any, ...]:
    """Return the arguments of a job whose context is between other parameters."""
    return context.job, a, rest, b


first = job(_first, name="first-wants-context")
second = job(_second, name="second-wants-context")


@pytest.fixture
def context() -> Any:
    """A context that is the current one."""
    current = Context(
        execution_id="1", job="j", attempt=1, max_attempts=None, parameters={}, scheduled_for=None, correlation_id="c",
        worker="w", log=logging.getLogger(), files=None, _progress=lambda *_: None,  # type: ignore[arg-type]
    )  # fmt: skip
    token = set_current_context(current)
    yield current
    reset_current_context(token)


def test_context_injected_at_any_position(context: Context) -> None:
    assert first(1) == first(a=1) == ("j", 1, 2)
    assert first(1, 3) == first(1, b=3) == ("j", 1, 3)
    assert second(1) == ("j", 1, (), 2)
    assert second(1, 5, 6, b=7) == ("j", 1, (5, 6), 7)
    assert second(a=1) == ("j", 1, (), 2)


def test_explicit_context_kept_at_its_position(context: Context) -> None:
    assert first(context, 1) == first(a=1, context=context) == ("j", 1, 2)


def test_surplus_positional_arguments_rejected(context: Context) -> None:
    with pytest.raises(TypeError):
        first(1, 2, 3)
