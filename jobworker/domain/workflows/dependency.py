"""What an execution waits for: which end of a parent lets it go, and what becomes of it otherwise.

`depends_on` of a submission is a list; each item is the id of an execution, or an object:

execution   the id of the parent
on          the end that lets the dependent go: success (Succeeded), failure (Failed, TimedOut), any (also Cancelled
            and Skipped)
otherwise   what becomes of the dependent when the parent ends in another way. skip: it is Skipped; fail: it is
            Failed, so that what depends on its failure runs; continue: it goes on all the same
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput, format_pointer
from jobworker.domain.executions.execution import FINAL_STATES, ExecutionState
from jobworker.domain.ids import is_id
from jobworker.domain.json.json_reader import JsonObjectReader

#: So many parents may one execution have.
MAX_PARENTS = 1000


class RequiredOutcome(StrEnum):
    """The end of a parent that lets a dependent go."""

    SUCCESS = "success"
    FAILURE = "failure"
    ANY = "any"


class UnmetDependencyAction(StrEnum):
    """What becomes of a dependent whose parent ended in another way."""

    SKIP = "skip"
    FAIL = "fail"
    CONTINUE = "continue"


class DependencyResolution(StrEnum):
    """What the end of a parent means to a dependent."""

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
    """An execution that others may depend on, and how it stands."""

    id: str
    job: str
    state: ExecutionState
    batch_id: str | None
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Dependency:
    """One parent of an execution."""

    parent: str
    on: RequiredOutcome = RequiredOutcome.SUCCESS
    otherwise: UnmetDependencyAction = UnmetDependencyAction.SKIP

    def resolve(self, parent_state: ExecutionState) -> DependencyResolution:
        """What it means that the parent ended like this."""
        return (
            DependencyResolution.MET
            if is_required_outcome(self.on, parent_state)
            else _UNMET_RESOLUTIONS[self.otherwise]
        )


def is_required_outcome(required: RequiredOutcome, parent_state: ExecutionState) -> bool:
    """Whether this is such an end."""
    return parent_state in _SATISFYING_STATES[required]


def parse(values: Sequence[Any], where: str) -> tuple[Dependency, ...]:
    """What a submission says that it depends on; raises `InvalidInput` with every problem."""
    if not isinstance(values, list | tuple) or len(values) > MAX_PARENTS:
        message = f"depends_on must be a list of at most {MAX_PARENTS} executions"
        raise InvalidInput(message, [FieldError(where, "wrong_type", message)])
    found: dict[str, Dependency] = {}
    problems: list[FieldError] = []
    for at, each in enumerate(values):
        try:
            one = _parse_dependency(each, where + format_pointer(at))
        except InvalidInput as error:
            problems.extend(error.errors)
            continue
        if one.parent in found:
            message = f"execution {one.parent} is named more than once"
            problems.append(FieldError(where + format_pointer(at), "repeated", message))
        found[one.parent] = one
    if problems:
        raise InvalidInput("; ".join(problem.message for problem in problems), problems)
    return tuple(found.values())


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
    """`on` and `otherwise` of whatever has them; None: it does not say."""
    on = RequiredOutcome(reader.get_choice("on", list(RequiredOutcome), RequiredOutcome.SUCCESS))
    otherwise = reader.get_choice("otherwise", list(UnmetDependencyAction), "")
    return on, UnmetDependencyAction(otherwise) if otherwise else None
