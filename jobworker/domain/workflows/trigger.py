"""Triggers: jobs that start when executions of other jobs end. `trigger_after` of a definition is a list.

job         the job whose executions start this one when they end
on          the required outcome: success (Succeeded), failure (Failed, TimedOut), any (also Cancelled and Skipped)
parameters  parameters of the triggered executions, merged over the definition's defaults; they may refer to the
            result of the execution that ended: `{"$from": "extract", "path": "/file"}`, where `extract` is its job
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobworker.domain.errors import FieldError, InvalidInput, format_pointer
from jobworker.domain.json import json_values
from jobworker.domain.json.json_reader import JsonObjectReader
from jobworker.domain.workflows import result_references
from jobworker.domain.workflows.dependency import RequiredOutcome

#: Maximum number of triggers of one job.
MAX_TRIGGERS = 50


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger: the job and the outcome after which another job starts."""

    job: str
    on: RequiredOutcome = RequiredOutcome.SUCCESS
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that is stored and returned by the API."""
        return {"job": self.job, "on": self.on.value, "parameters": dict(self.parameters)}


@dataclass(frozen=True, slots=True)
class TriggerPolicy:
    """The triggers of a job."""

    items: tuple[Trigger, ...]

    def to_json(self) -> list[dict[str, Any]]:
        """Return the JSON array that is stored and returned by the API."""
        return [trigger.to_json() for trigger in self.items]


def parse(value: Any, where: str) -> TriggerPolicy:
    """Return the triggers in `trigger_after` of a definition. Raises `InvalidInput` with every problem."""
    if not isinstance(value, list) or len(value) > MAX_TRIGGERS:
        message = f"trigger_after must be a list of at most {MAX_TRIGGERS} objects"
        raise InvalidInput(message, [FieldError(where, "wrong_type", message)])
    triggers: list[Trigger] = []
    problems: list[FieldError] = []
    for at, item in enumerate(value):
        place = where + format_pointer(at)
        try:
            trigger = _parse_trigger(item, place)
        except InvalidInput as error:
            problems.extend(error.errors)
            continue
        if any((trigger.job, trigger.on) == (earlier.job, earlier.on) for earlier in triggers):
            message = f"{trigger.on} of job {trigger.job} is named more than once"
            problems.append(FieldError(place, "repeated", message))
        triggers.append(trigger)
    if problems:
        raise InvalidInput("; ".join(problem.message for problem in problems), problems)
    return TriggerPolicy(tuple(triggers))


def _parse_trigger(value: Any, where: str) -> Trigger:
    described = JsonObjectReader(value, where)
    job = described.get_text("job", 128) or ""
    described.require("job")
    on = RequiredOutcome(described.get_choice("on", list(RequiredOutcome), RequiredOutcome.SUCCESS))
    parameters = described.get_value("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        described.add_problem("parameters", "wrong_type", "parameters must be a JSON object")
        parameters = None
    try:
        json_values.check(parameters)
    except json_values.UnacceptableValue as error:
        # Values from Python may be of any type.
        described.add_problem("parameters", "not_kept", f"parameters contain {error}")
        parameters = None
    if job:
        described.problems.extend(result_references.validate(parameters or {}, {job}, f"{where}/parameters"))
    described.finish()
    return Trigger(job, on, parameters or {})
