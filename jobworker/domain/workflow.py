"""Workflows: steps that need each other, and the order in which they can run.

`needs` of a step is a list; each item is the name of a step, or an object:

step       the name
on         the end of that step which lets this one go: success, failure, any
otherwise  what becomes of this one when that step ends in another way: skip, fail, continue. Left out, and `on` is
           success: as `on_failure` of that step says, or else that of the workflow, or else skip
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobworker.domain import graph
from jobworker.domain.admission import Submission
from jobworker.domain.dependencies import MAX_PARENTS, On, Otherwise, read_condition
from jobworker.domain.described import Described
from jobworker.domain.errors import FieldError, InvalidInput, pointer

#: A workflow is one transaction, and one page to look at.
MAX_STEPS = 1000

#: Needs of all steps together.
MAX_NEEDS = 10_000

STEP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Step:
    """A step as somebody describes it; `needs` as it came."""

    submission: Submission
    needs: Sequence[Any] = ()
    on_failure: str | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """What a step waits for; `otherwise` is None until it is decided who says so."""

    step: str
    on: On = On.SUCCESS
    otherwise: Otherwise | None = None


@dataclass(frozen=True, slots=True)
class Workflow:
    """Steps by their names, and what becomes of those that need one that failed."""

    steps: Mapping[str, Step]
    on_failure: str | None = None
    name: str | None = None
    correlation_id: str | None = None
    on_complete: Submission | None = None


@dataclass(slots=True)
class _Reading:
    """What was read so far, and what is wrong with it."""

    needs: dict[str, list[Need]] = field(default_factory=dict)
    problems: list[FieldError] = field(default_factory=list)


def plan(workflow: Workflow) -> dict[str, list[Need]]:
    """What each step needs, every step after those that it needs; raises `InvalidInput` with every problem."""
    reading = _Reading()
    if not 0 < len(workflow.steps) <= MAX_STEPS:
        message = f"a workflow has 1 to {MAX_STEPS} steps, not {len(workflow.steps)}"
        raise InvalidInput(message, [FieldError("/steps", "not_allowed", message)])
    for name, step in workflow.steps.items():
        _read(name, step, workflow, reading)
    if sum(map(len, reading.needs.values())) > MAX_NEEDS:
        message = f"the steps need more than {MAX_NEEDS} others together"
        reading.problems.append(FieldError("/steps", "not_allowed", message))
    before = {name: [each.step for each in needs] for name, needs in reading.needs.items()}
    path = graph.cycle(before)
    if path is not None:
        message = f"no step could be the first: {' -> '.join(path)}, each before the next"
        reading.problems.append(FieldError("/steps", "cycle", message))
    if reading.problems:
        raise InvalidInput("; ".join(each.message for each in reading.problems[:5]), reading.problems[:100])
    return {name: [_decided(each, workflow) for each in reading.needs[name]] for name in graph.order(before)}


def _read(name: str, step: Step, workflow: Workflow, reading: _Reading) -> None:
    where = pointer("steps", name)
    if not STEP.match(name):
        message = "the name of a step begins with a letter or digit and has at most 64 characters of A-Z a-z 0-9 _ . -"
        reading.problems.append(FieldError(where, "not_allowed", message))
    reading.problems.extend(_bad_word(step.on_failure, f"{where}/on_failure"))
    mine = reading.needs.setdefault(name, [])
    if not isinstance(step.needs, list | tuple) or len(step.needs) > MAX_PARENTS:
        message = f"needs must be a list of at most {MAX_PARENTS} steps"
        reading.problems.append(FieldError(f"{where}/needs", "wrong_type", message))
        return
    for at, each in enumerate(step.needs):
        place = where + pointer("needs", at)
        try:
            need = _read_need(each, place)
        except InvalidInput as error:
            reading.problems.extend(error.errors)
            continue
        if need.step not in workflow.steps:
            message = f"step {name} needs {need.step[:80]!r}, and there is no such step"
            reading.problems.append(FieldError(place, "unknown_step", message))
        elif any(need.step == other.step for other in mine):
            message = f"step {name} needs {need.step} more than once"
            reading.problems.append(FieldError(place, "repeated", message))
        else:
            mine.append(need)


def _read_need(given: Any, where: str) -> Need:
    described = Described({"step": given} if isinstance(given, str) else given, where)
    step = described.get_text("step", 100) or ""
    described.require("step")
    on, otherwise = read_condition(described)
    described.finish()
    return Need(step, on, otherwise)


def _bad_word(word: str | None, where: str) -> Iterator[FieldError]:
    if word is not None and word not in list(Otherwise):
        yield FieldError(where, "not_allowed", f"on_failure must be one of {', '.join(Otherwise)}")


def _decided(need: Need, workflow: Workflow) -> Need:
    if need.otherwise is not None or need.on is not On.SUCCESS:
        return Need(need.step, need.on, need.otherwise or Otherwise.SKIP)
    said = workflow.steps[need.step].on_failure or workflow.on_failure or Otherwise.SKIP
    return Need(need.step, need.on, Otherwise(said))
