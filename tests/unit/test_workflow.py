"""Plans of workflows: what is wrong with them, and what a failure means to the steps behind it."""

from typing import Any

import pytest

from jobworker.domain.admission import Submission
from jobworker.domain.dependencies import On, Otherwise
from jobworker.domain.errors import InvalidInput
from jobworker.domain.workflow import MAX_NEEDS, Need, Step, Workflow, plan

JOB = Submission(job="load")


def _workflow(on_failure: str | None = None, **steps: Any) -> Workflow:
    return Workflow(
        {name: each if isinstance(each, Step) else Step(JOB, each) for name, each in steps.items()}, on_failure
    )


def _problems(workflow: Workflow) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidInput) as refused:
        plan(workflow)
    return [(each.pointer, each.code, each.message) for each in refused.value.errors]


def test_steps_come_after_those_that_they_need() -> None:
    planned = plan(_workflow(d=["b", "c"], c=["a"], b=["a"], a=[]))
    assert next(iter(planned)) == "a"
    assert list(planned)[-1] == "d"


def test_who_says_what_becomes_of_a_step_behind_a_failure() -> None:
    planned = plan(
        _workflow(
            "fail",
            a=Step(JOB, (), "continue"),
            b=[],
            c=["a", "b", {"step": "d", "otherwise": "skip"}, {"step": "e", "on": "failure"}],
            d=[],
            e=Step(JOB, (), "continue"),
        )
    )
    assert planned["c"] == [
        Need("a", On.SUCCESS, Otherwise.CONTINUE),
        Need("b", On.SUCCESS, Otherwise.FAIL),
        Need("d", On.SUCCESS, Otherwise.SKIP),
        Need("e", On.FAILURE, Otherwise.SKIP),
    ]
    assert plan(_workflow(a=[], b=["a"]))["b"] == [Need("a", On.SUCCESS, Otherwise.SKIP)]


@pytest.mark.parametrize(
    ("steps", "place", "code", "text"),
    [
        ({}, "/steps", "not_allowed", "1 to 1000 steps, not 0"),
        ({"a": ["b"]}, "/steps/a/needs/0", "unknown_step", "step a needs 'b', and there is no such step"),
        ({"a": [], "b": ["a", "a"]}, "/steps/b/needs/1", "repeated", "step b needs a more than once"),
        ({"a": ["a"]}, "/steps", "cycle", "a -> a"),
        ({"a": ["c"], "b": ["a"], "c": ["b"]}, "/steps", "cycle", "a -> b -> c -> a"),
        ({"a": "b", "b": []}, "/steps/a/needs", "wrong_type", "needs must be a list"),
        ({"a": [{"on": "any"}]}, "/steps/a/needs/0/step", "missing", "step is required"),
        ({"a": [7]}, "/steps/a/needs/0", "wrong_type", "must be a JSON object"),
        ({"a": [{"step": "a", "when": 1}]}, "/steps/a/needs/0/when", "unknown_field", "when is not known"),
        ({"a b": []}, "/steps/a b", "not_allowed", "begins with a letter"),
        ({"a": Step(JOB, (), "stop")}, "/steps/a/on_failure", "not_allowed", "skip, fail, continue"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(steps: dict[str, Any], place: str, code: str, text: str) -> None:
    [problem] = [each for each in _problems(_workflow(**steps)) if each[1] == code]
    assert problem[0] == place
    assert text in problem[2]


def test_there_is_an_end_to_needs() -> None:
    steps: dict[str, Any] = {f"s{number}": [] for number in range(200)}
    names = list(steps)
    steps |= {f"t{number}": names for number in range(MAX_NEEDS // 200 + 1)}
    assert [problem[:2] for problem in _problems(_workflow(**steps))] == [("/steps", "not_allowed")]
