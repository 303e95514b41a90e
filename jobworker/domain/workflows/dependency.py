"""Dependencies of executions: the required outcome of a parent, and the action if the parent ends with another outcome.

`depends_on` of a submission is a list; each item is the id of an execution, or an object:

execution   the id of the parent
on          the required outcome of the parent: success (Succeeded), failure (Failed, TimedOut), any (also Cancelled
            and Skipped)
otherwise   the action if the parent ends with another outcome. skip: the dependent is Skipped; fail: it is Failed, so
            that executions that depend on its failure run; continue: it runs nevertheless
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput, format_pointer
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.ids import is_id
from jobworker.domain.json.json_reader import JsonObjectReader

#: Maximum number of parents of one execution.
MAX_PARENTS = 1000


class RequiredOutcome(StrEnum):
    """The outcome of a parent that releases a dependent."""

    SUCCESS = "success"
    FAILURE = "failure"
    ANY = "any"


class UnmetDependencyAction(StrEnum):
    """Action for a dependent whose parent ended with another outcome than the required one."""

    SKIP = "skip"
    FAIL = "fail"
    CONTINUE = "continue"


class DependencyResolution(StrEnum):
    """Effect of the end of a parent on a dependent."""

    MET = "met"
    SKIP = "skip"
    FAIL = "fail"


_SATISFYING_STATES: Mapping[RequiredOutcome, frozenset[ExecutionState]] = {
    RequiredOutcome.SUCCESS: frozenset({ExecutionState.SUCCEEDED}),
    RequiredOutcome.FAILURE: frozenset({ExecutionState.FAILED, ExecutionState.TIMED_OUT}),
    RequiredOutcome.ANY: FINAL_STATES,
}

_UNMET_RESOLUTIONS: Mapping[UnmetDependencyAction, DependencyResolution] = {
    UnmetDependencyAction.SKIP: DependencyResolution.SKIP,
    UnmetDependencyAction.FAIL: DependencyResolution.FAIL,
    UnmetDependencyAction.CONTINUE: DependencyResolution.MET,
}


@dataclass(frozen=True, slots=True)
class ParentExecution:
    """An execution that others may depend on, with its state."""

    id: str
    job: str
    state: ExecutionState
    batch_id: str | None
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Dependency:
    """A dependency of an execution on one parent."""

    parent: str
    on: RequiredOutcome = RequiredOutcome.SUCCESS
    otherwise: UnmetDependencyAction = UnmetDependencyAction.SKIP

    def resolve(self, parent_state: ExecutionState) -> DependencyResolution:
        """Return the effect on the dependent if the parent ended in this state."""
        return (
            DependencyResolution.MET
            if is_required_outcome(self.on, parent_state)
            else _UNMET_RESOLUTIONS[self.otherwise]
        )


def is_required_outcome(required: RequiredOutcome, parent_state: ExecutionState) -> bool:
    """Return whether a final state of the parent satisfies the required outcome."""
    return parent_state in _SATISFYING_STATES[required]


def parse(values: Sequence[Any], where: str) -> tuple[Dependency, ...]:
    """Return the dependencies in `depends_on` of a submission. Raises `InvalidInput` with every problem."""
    if not isinstance(values, list | tuple) or len(values) > MAX_PARENTS:
        message = f"depends_on must be a list of at most {MAX_PARENTS} executions"
        raise InvalidInput(message, [FieldError(where, "wrong_type", message)])
    dependencies: dict[str, Dependency] = {}
    problems: list[FieldError] = []
    for at, value in enumerate(values):
        try:
            dependency = _parse_dependency(value, where + format_pointer(at))
        except InvalidInput as error:
            problems.extend(error.errors)
            continue
        if dependency.parent in dependencies:
            message = f"execution {dependency.parent} is named more than once"
            problems.append(FieldError(where + format_pointer(at), "repeated", message))
        dependencies[dependency.parent] = dependency
    if problems:
        raise InvalidInput("; ".join(problem.message for problem in problems), problems)
    return tuple(dependencies.values())


def _parse_dependency(value: Any, where: str) -> Dependency:
    described = JsonObjectReader({"execution": value} if isinstance(value, str) else value, where)
    parent = described.get_text("execution", 100) or ""
    described.require("execution")
    if parent and not is_id(parent):
        described.add_problem(
            "execution", "not_allowed", f"execution must be the id of an execution, not {parent[:40]!r}"
        )
    on, otherwise = parse_condition(described)
    described.finish()
    return Dependency(parent, on, otherwise or UnmetDependencyAction.SKIP)


def parse_condition(reader: JsonObjectReader) -> tuple[RequiredOutcome, UnmetDependencyAction | None]:
    """Return the fields `on` and `otherwise` of a dependency; None without `otherwise`."""
    on = RequiredOutcome(reader.get_choice("on", list(RequiredOutcome), RequiredOutcome.SUCCESS))
    otherwise = reader.get_choice("otherwise", list(UnmetDependencyAction), "")
    return on, UnmetDependencyAction(otherwise) if otherwise else None
