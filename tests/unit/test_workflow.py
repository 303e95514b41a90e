"""Plans of workflows: their problems, and the effect of a failure on dependent steps."""

from typing import Any

import pytest

from jobworker.domain.errors import InvalidInput
from jobworker.domain.submissions.submission import Submission
from jobworker.domain.workflows.dependency import RequiredOutcome, UnmetDependencyAction
from jobworker.domain.workflows.workflow import MAX_NEEDS, StepDependency, Workflow, WorkflowStep, plan_steps

JOB = Submission(job="load")


def _make_workflow(on_failure: str | None = None, **steps: Any) -> Workflow:
    return Workflow(
        {name: step if isinstance(step, WorkflowStep) else WorkflowStep(JOB, step) for name, step in steps.items()},
        on_failure,
    )


def _list_problems(workflow: Workflow) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidInput) as refused:
        plan_steps(workflow)
    return [(problem.pointer, problem.code, problem.message) for problem in refused.value.errors]


def test_steps_planned_after_their_dependencies() -> None:
    planned = plan_steps(_make_workflow(d=["b", "c"], c=["a"], b=["a"], a=[]))
    assert next(iter(planned)) == "a"
    assert list(planned)[-1] == "d"


def test_unmet_dependency_action_from_step_then_workflow() -> None:
    planned = plan_steps(
        _make_workflow(
            "fail",
            a=WorkflowStep(JOB, (), "continue"),
            b=[],
            c=["a", "b", {"step": "d", "otherwise": "skip"}, {"step": "e", "on": "failure"}],
            d=[],
            e=WorkflowStep(JOB, (), "continue"),
        )
    )
    assert planned["c"] == [
        StepDependency("a", RequiredOutcome.SUCCESS, UnmetDependencyAction.CONTINUE),
        StepDependency("b", RequiredOutcome.SUCCESS, UnmetDependencyAction.FAIL),
        StepDependency("d", RequiredOutcome.SUCCESS, UnmetDependencyAction.SKIP),
        StepDependency("e", RequiredOutcome.FAILURE, UnmetDependencyAction.SKIP),
    ]
    assert plan_steps(_make_workflow(a=[], b=["a"]))["b"] == [
        StepDependency("a", RequiredOutcome.SUCCESS, UnmetDependencyAction.SKIP)
    ]


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
        ({"a": [{"step": "a", "when": 1}]}, "/steps/a/needs/0/when", "unknown_field", "when is unknown"),
        ({"a b": []}, "/steps/a b", "not_allowed", "begins with a letter"),
        ({"a": WorkflowStep(JOB, (), "stop")}, "/steps/a/on_failure", "not_allowed", "skip, fail, continue"),
    ],
)  # fmt: skip
def test_workflow_problem_reported_with_pointer(steps: dict[str, Any], place: str, code: str, text: str) -> None:
    [problem] = [problem for problem in _list_problems(_make_workflow(**steps)) if problem[1] == code]
    assert problem[0] == place
    assert text in problem[2]


def test_total_number_of_needs_bounded() -> None:
    steps: dict[str, Any] = {f"s{number}": [] for number in range(200)}
    names = list(steps)
    steps |= {f"t{number}": names for number in range(MAX_NEEDS // 200 + 1)}
    assert [problem[:2] for problem in _list_problems(_make_workflow(**steps))] == [("/steps", "not_allowed")]
