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

from jobworker.domain.described import Described
from jobworker.domain.errors import FieldError, InvalidInput, pointer
from jobworker.domain.execution import FINAL, State
from jobworker.domain.ids import is_id

#: So many parents may one execution have.
MAX_PARENTS = 1000


class On(StrEnum):
    """The end of a parent that lets a dependent go."""

    SUCCESS = "success"
    FAILURE = "failure"
    ANY = "any"


class Otherwise(StrEnum):
    """What becomes of a dependent whose parent ended in another way."""

    SKIP = "skip"
    FAIL = "fail"
    CONTINUE = "continue"


class Verdict(StrEnum):
    """What the end of a parent means to a dependent."""

    MET = "met"
    SKIP = "skip"
    FAIL = "fail"


_LETS_GO: Mapping[On, frozenset[State]] = {
    On.SUCCESS: frozenset({State.SUCCEEDED}),
    On.FAILURE: frozenset({State.FAILED, State.TIMED_OUT}),
    On.ANY: FINAL,
}

_VERDICTS: Mapping[Otherwise, Verdict] = {
    Otherwise.SKIP: Verdict.SKIP,
    Otherwise.FAIL: Verdict.FAIL,
    Otherwise.CONTINUE: Verdict.MET,
}


@dataclass(frozen=True, slots=True)
class Parent:
    """An execution that others may depend on, and how it stands."""

    id: str
    job: str
    state: State
    batch_id: str | None
    correlation_id: str


@dataclass(frozen=True, slots=True)
class Dependency:
    """One parent of an execution."""

    parent: str
    on: On = On.SUCCESS
    otherwise: Otherwise = Otherwise.SKIP

    def resolve(self, ended: State) -> Verdict:
        """What it means that the parent ended like this."""
        return Verdict.MET if covers(self.on, ended) else _VERDICTS[self.otherwise]


def covers(on: On, ended: State) -> bool:
    """Whether this is such an end."""
    return ended in _LETS_GO[on]


def parse(given: Sequence[Any], where: str) -> tuple[Dependency, ...]:
    """What a submission says that it depends on; raises `InvalidInput` with every problem."""
    if not isinstance(given, list | tuple) or len(given) > MAX_PARENTS:
        message = f"depends_on must be a list of at most {MAX_PARENTS} executions"
        raise InvalidInput(message, [FieldError(where, "wrong_type", message)])
    found: dict[str, Dependency] = {}
    problems: list[FieldError] = []
    for at, each in enumerate(given):
        try:
            one = _parse_one(each, where + pointer(at))
        except InvalidInput as error:
            problems.extend(error.errors)
            continue
        if one.parent in found:
            message = f"execution {one.parent} is named more than once"
            problems.append(FieldError(where + pointer(at), "repeated", message))
        found[one.parent] = one
    if problems:
        raise InvalidInput("; ".join(problem.message for problem in problems), problems)
    return tuple(found.values())


def _parse_one(given: Any, where: str) -> Dependency:
    described = Described({"execution": given} if isinstance(given, str) else given, where)
    parent = described.get_text("execution", 100) or ""
    described.require("execution")
    if parent and not is_id(parent):
        described.add_problem("execution", "not_allowed", f"execution must be the id of an execution, not {parent[:40]!r}")
    on, otherwise = read_condition(described)
    described.finish()
    return Dependency(parent, on, otherwise or Otherwise.SKIP)


def read_condition(described: Described) -> tuple[On, Otherwise | None]:
    """`on` and `otherwise` of whatever has them; None: it does not say."""
    on = On(described.get_choice("on", list(On), On.SUCCESS))
    otherwise = described.get_choice("otherwise", list(Otherwise), "")
    return on, Otherwise(otherwise) if otherwise else None
