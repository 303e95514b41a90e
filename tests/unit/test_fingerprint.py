"""Failure fingerprints: equal for one exception type raised in the same frames of the user's code."""

from collections.abc import Callable
from typing import Any

import pytest

from jobworker.domain.executions import failure_fingerprint
from jobworker.worker.attempt import outcome

TRACEBACK = """Traceback (most recent call last):
  File "/srv/one/.venv/lib/python3.11/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
  File "/srv/one/tasks/exports.py", line 12, in export
    rows = read(user)
           ^^^^^^^^^^
  File "/srv/one/tasks/exports.py", line 30, in read
    raise ValueError(user)
ValueError: u-17
"""


def _compute_fingerprint(
    traceback: str | None = TRACEBACK, kind: str = "ValueError", message: str = "u-17", task: str = "export"
) -> str:
    return failure_fingerprint.compute_fingerprint({"type": kind, "message": message, "traceback": traceback}, task)


@pytest.mark.parametrize(
    "same",
    [
        TRACEBACK.replace("line 12", "line 99"),
        TRACEBACK.replace("ValueError: u-17", "ValueError: something else"),
        TRACEBACK.replace("/srv/one/", "/home/two/"),
        TRACEBACK.replace("python3.11", "python3.13").replace("trace_task", "_trace"),
    ],
)
def test_fingerprint_ignores_lines_messages_hosts_and_libraries(same: str) -> None:
    assert same != TRACEBACK
    assert _compute_fingerprint(same, message="else", task="other") == _compute_fingerprint()


@pytest.mark.parametrize(
    "changed_fields",
    [
        {"kind": "KeyError"},
        {"traceback": TRACEBACK.replace("in read", "in write")},
        {"traceback": TRACEBACK.replace("tasks/exports.py", "tasks/imports.py")},
        {"traceback": None},
    ],
)
def test_fingerprint_depends_on_type_functions_and_modules(changed_fields: dict[str, Any]) -> None:
    assert _compute_fingerprint(**changed_fields) != _compute_fingerprint()


def test_fingerprint_without_frames_depends_on_task() -> None:
    assert _compute_fingerprint(None, "WorkerLost", task="a") == _compute_fingerprint(None, "WorkerLost", "x", task="a")
    assert (
        len(
            {
                _compute_fingerprint(None, "WorkerLost", task="a"),
                _compute_fingerprint(None, "WorkerLost", task="b"),
                _compute_fingerprint(None, task="a"),
            }
        )
        == 3
    )


def test_fingerprint_of_builtin_code_depends_on_task() -> None:
    ours = TRACEBACK.replace("/srv/one/tasks/exports.py", "/srv/one/jobworker/worker/builtin/shell.py")
    assert _compute_fingerprint(ours, task="shell.run") != _compute_fingerprint(ours, task="http.request")
    assert _compute_fingerprint(task="shell.run") == _compute_fingerprint(task="http.request")


def test_fingerprint_of_time_limit_ignores_frames() -> None:
    elsewhere = TRACEBACK.replace("in read", "in write")
    assert _compute_fingerprint(elsewhere, "SoftTimeLimitExceeded") == _compute_fingerprint(
        TRACEBACK, "SoftTimeLimitExceeded"
    )


def _raise_at_depth(depth: int) -> None:
    if depth == 0:
        raise RuntimeError("deep")
    _raise_at_depth(depth - 1)


def _raise_wrapped(error: type[Exception]) -> None:
    try:
        raise error("cause")
    except error as cause:
        raise RuntimeError("wrapped") from cause


def _format_raised(call: Callable[[], None]) -> str:
    with pytest.raises(RuntimeError) as caught:
        call()
    return failure_fingerprint.compute_fingerprint(outcome.describe_error(caught.value), "t")


def test_fingerprint_ignores_recursion_depth() -> None:
    assert (
        len(
            {
                _format_raised(lambda: _raise_at_depth(1)),
                _format_raised(lambda: _raise_at_depth(7)),
                _format_raised(lambda: _raise_at_depth(900)),
            }
        )
        == 1
    )


def test_fingerprint_of_chain_uses_outermost_exception() -> None:
    assert _format_raised(lambda: _raise_wrapped(KeyError)) == _format_raised(lambda: _raise_wrapped(ValueError))
    assert _format_raised(lambda: _raise_wrapped(KeyError)) != _format_raised(lambda: _raise_at_depth(1))


@pytest.mark.parametrize("error", [None, {}, {"type": 3, "traceback": 4}, {"type": "\ud800", "traceback": "\ud800"}])
def test_fingerprint_computed_for_malformed_error(error: Any) -> None:
    assert len(failure_fingerprint.compute_fingerprint(error, "t")) == 16
