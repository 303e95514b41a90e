"""Comparison of JSON values and of executions."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from jobworker.domain.executions import comparison
from jobworker.domain.executions.comparison import Difference


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("/a", "changed", 1, 2)]),
        ({"a": 1}, {"b": 1}, [("/a", "removed", 1, None), ("/b", "added", None, 1)]),
        ({"a": None}, {}, [("/a", "removed", None, None)]),
        ({"a": 1}, {"a": True}, [("/a", "changed", 1, True)]),
        ({"a": 1}, {"a": 1.0}, [("/a", "changed", 1, 1.0)]),
        ({"a": {"b/c": 1, "d": 2}}, {"a": {"b/c": 3, "d": 2}}, [("/a/b~1c", "changed", 1, 3)]),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, [("/a/1/b", "changed", 2, 3)]),
        ({"a": [1]}, {"a": [1, 2]}, [("/a", "changed", [1], [1, 2])]),
        ({"a": {}}, {"a": []}, [("/a", "changed", {}, [])]),
    ],
)
def test_differing_places_named_by_pointer(before: Any, now: Any, expected: list[tuple[Any, ...]]) -> None:
    differences = [
        (difference.pointer, difference.change, difference.before, difference.now)
        for difference in comparison.compare_values("p", before, now)
    ]
    assert differences == expected


@dataclass(frozen=True)
class FakeExecution:
    """An execution."""

    job_revision: int = 1
    parameters: Any = None
    overrides: Any = None
    code_version: str | None = "v1"
    worker: str | None = "celery@one:17:ab12"


EXECUTION = FakeExecution(parameters={"month": "May"})


def test_restarted_worker_is_not_a_difference() -> None:
    assert comparison.compare_executions(EXECUTION, replace(EXECUTION, worker="celery@one:18:cd34"), ({}, {})) == []


def test_execution_differences_of_all_kinds_listed() -> None:
    now = replace(
        EXECUTION, job_revision=2, parameters={"month": "June"}, overrides={"time_limit": 5}, code_version="v2",
        worker="celery@two:1:x",
    )  # fmt: skip
    assert comparison.compare_executions(EXECUTION, now, ({"queue": "a"}, {"queue": "b"})) == [
        Difference("revision", "", "changed", 1, 2),
        Difference("definition", "/queue", "changed", "a", "b"),
        Difference("parameters", "/month", "changed", "May", "June"),
        Difference("overrides", "/time_limit", "added", None, 5),
        Difference("code_version", "", "changed", "v1", "v2"),
        Difference("worker", "", "changed", "celery@one", "celery@two"),
        Difference("host", "", "changed", "one", "two"),
    ]


def test_execution_that_has_not_run_has_no_worker_difference() -> None:
    assert comparison.compare_executions(EXECUTION, replace(EXECUTION, worker=None, code_version=None), ({}, {})) == []


def test_differences_limited_in_number() -> None:
    many = {str(number): number for number in range(1000)}
    assert (
        len(comparison.compare_executions(EXECUTION, replace(EXECUTION, parameters=many), ({}, {})))
        == comparison.MAX_DIFFERENCES
    )
