"""Workflows: steps that depend on each other, and the order in which they can run.

`needs` of a step is a list; each item is the name of a step, or an object:

step       the name of the required step
on         the required outcome of that step: success, failure, any
otherwise  the action for this step if that step ends with another outcome: skip, fail, continue. If `otherwise` is
           absent and `on` is success, the default is `on_failure` of that step, then `on_failure` of the workflow,
           then skip
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput, format_pointer
from jobworker.domain.json.json_reader import JsonObjectReader
from jobworker.domain.submissions.submission import Submission
from jobworker.domain.workflows import graph
from jobworker.domain.workflows.dependency import MAX_PARENTS, RequiredOutcome, UnmetDependencyAction, parse_condition

#: Maximum number of steps: a workflow is inserted in one transaction, and displayed on one page.
MAX_STEPS = 1000

#: Maximum number of dependencies of all steps together.
MAX_NEEDS = 10_000

STEP_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class WorkflowStep:
    """A step as submitted, with unparsed `needs`."""

    submission: Submission
    needs: Sequence[Any] = ()
    on_failure: str | None = None


@dataclass(frozen=True, slots=True)
class StepDependency:
    """A dependency of a step on another step; `otherwise` stays None before the default is applied."""

    step: str
    on: RequiredOutcome = RequiredOutcome.SUCCESS
    otherwise: UnmetDependencyAction | None = None


@dataclass(frozen=True, slots=True)
class Workflow:
    """Steps by their names, and the default action for steps whose dependency ended with another outcome."""

    steps: Mapping[str, WorkflowStep]
    on_failure: str | None = None
    name: str | None = None
    correlation_id: str | None = None
    on_complete: Submission | None = None


@dataclass(slots=True)
class _PlanningState:
    """The dependencies that have been parsed so far, and the problems found."""

    needs: dict[str, list[StepDependency]] = field(default_factory=dict)
    problems: list[FieldError] = field(default_factory=list)


def plan_steps(workflow: Workflow) -> dict[str, list[StepDependency]]:
    """Return the dependencies of each step, in topological order. Raises `InvalidInput` with every problem."""
    reading = _PlanningState()
    if not 0 < len(workflow.steps) <= MAX_STEPS:
        message = f"a workflow has 1 to {MAX_STEPS} steps, not {len(workflow.steps)}"
        raise InvalidInput(message, [FieldError("/steps", "not_allowed", message)])
    for name, step in workflow.steps.items():
        _parse_step(name, step, workflow, reading)
    if sum(map(len, reading.needs.values())) > MAX_NEEDS:
        message = f"the steps need more than {MAX_NEEDS} others together"
        reading.problems.append(FieldError("/steps", "not_allowed", message))
    before = {name: [need.step for need in needs] for name, needs in reading.needs.items()}
    path = graph.find_cycle(before)
    if path is not None:
        message = f"no step could be the first: {' -> '.join(path)}, each before the next"
        reading.problems.append(FieldError("/steps", "cycle", message))
    if reading.problems:
        raise InvalidInput("; ".join(problem.message for problem in reading.problems[:5]), reading.problems[:100])
    return {
        name: [_complete_need(need, workflow) for need in reading.needs[name]]
        for name in graph.sort_topologically(before)
    }


def _parse_step(name: str, step: WorkflowStep, workflow: Workflow, state: _PlanningState) -> None:
    where = format_pointer("steps", name)
    if not STEP_NAME_PATTERN.match(name):
        message = "the name of a step begins with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -"
        state.problems.append(FieldError(where, "not_allowed", message))
    state.problems.extend(_validate_on_failure(step.on_failure, f"{where}/on_failure"))
    needs = state.needs.setdefault(name, [])
    if not isinstance(step.needs, list | tuple) or len(step.needs) > MAX_PARENTS:
        message = f"needs must be a list of at most {MAX_PARENTS} steps"
        state.problems.append(FieldError(f"{where}/needs", "wrong_type", message))
        return
    for at, item in enumerate(step.needs):
        place = where + format_pointer("needs", at)
        try:
            need = _parse_need(item, place)
        except InvalidInput as error:
            state.problems.extend(error.errors)
            continue
        if need.step not in workflow.steps:
            message = f"step {name} needs {need.step[:80]!r}, and there is no such step"
            state.problems.append(FieldError(place, "unknown_step", message))
        elif any(need.step == earlier.step for earlier in needs):
            message = f"step {name} needs {need.step} more than once"
            state.problems.append(FieldError(place, "repeated", message))
        else:
            needs.append(need)


def _parse_need(value: Any, where: str) -> StepDependency:
    described = JsonObjectReader({"step": value} if isinstance(value, str) else value, where)
    step = described.get_text("step", 100) or ""
    described.require("step")
    on, otherwise = parse_condition(described)
    described.finish()
    return StepDependency(step, on, otherwise)


def _validate_on_failure(action: str | None, where: str) -> Iterator[FieldError]:
    if action is not None and action not in list(UnmetDependencyAction):
        yield FieldError(where, "not_allowed", f"on_failure must be one of {', '.join(UnmetDependencyAction)}")


def _complete_need(need: StepDependency, workflow: Workflow) -> StepDependency:
    if need.otherwise is not None or need.on is not RequiredOutcome.SUCCESS:
        return StepDependency(need.step, need.on, need.otherwise or UnmetDependencyAction.SKIP)
    said = workflow.steps[need.step].on_failure or workflow.on_failure or UnmetDependencyAction.SKIP
    return StepDependency(need.step, need.on, UnmetDependencyAction(said))
