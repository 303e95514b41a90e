"""Batches and workflows."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import Coded
from jobworker.api.schemas.base import Answer, Schema, integer, moment, number, text
from jobworker.api.schemas.executions import STATES, BatchItem, CompletionBody, conditions
from jobworker.domain.admission import MAX_CORRELATION_ID, Submission
from jobworker.domain.dependencies import MAX_PARENTS, Otherwise
from jobworker.domain.workflow import MAX_STEPS, Step, Workflow
from jobworker.store.batches import Kind

_WORDS = [each.value for each in Otherwise]
_KINDS = [each.value for each in Kind]


class StepBody(BatchItem):
    """One step: an execution, and the steps that it needs."""

    needs = fields.Raw(
        load_default=(),
        metadata={
            "type": "array",
            "items": conditions("step"),
            "maxItems": MAX_PARENTS,
            "description": "Steps that have to end first: names, or objects with step, on (success, failure, any) and "
            "otherwise (skip, fail, continue).",
        },
    )
    on_failure = fields.String(
        load_default=None,
        allow_none=True,
        metadata={"enum": [*_WORDS, None], "description": "What becomes of steps that need the success of this one."},
    )

    @ma.post_load
    def to_submission(self, data: dict[str, Any], **_: Any) -> Any:
        """What the use case takes."""
        own = {name: data.pop(name) for name in ("needs", "on_failure")}
        return Step(Submission(**data), **own)


class _Steps(fields.Dict):
    """Steps by their names; what is wrong in one is told with its place."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, Step]:
        if not isinstance(value, dict):
            raise ma.ValidationError(Coded("wrong_type", "must be a JSON object"))
        if not 0 < len(value) <= MAX_STEPS:
            raise ma.ValidationError(Coded("not_allowed", f"must have 1 to {MAX_STEPS} steps, not {len(value)}"))
        found: dict[str, Step] = {}
        problems: dict[Any, Any] = {}
        for name, each in value.items():
            try:
                found[name] = _STEP.load(each)
            except ma.ValidationError as error:
                problems[name] = error.messages
        if problems:
            raise ma.ValidationError(problems)
        return found


_STEP = StepBody()


class WorkflowBody(Schema):
    """Steps that are accepted together or not at all."""

    name = fields.String(load_default=None, allow_none=True, metadata={"maxLength": 128})
    correlation_id = fields.String(
        load_default=None,
        allow_none=True,
        metadata={
            "maxLength": MAX_CORRELATION_ID,
            "description": "Of each step that has none of its own; null: the id of the workflow.",
        },
    )
    steps = _Steps(
        keys=fields.String(),
        values=fields.Nested(StepBody),
        required=True,
        metadata={"example": {"extract": {"job": "extract"}, "load": {"job": "load", "needs": ["extract"]}}},
    )
    on_failure = fields.String(
        load_default=None, allow_none=True, validate=ma.validate.OneOf(_WORDS), metadata={"description": "null: skip."}
    )
    on_complete = fields.Nested(CompletionBody, load_default=None, allow_none=True)

    @ma.post_load
    def to_workflow(self, data: dict[str, Any], **_: Any) -> Workflow:
        """What the use case takes."""
        return Workflow(**data)


class StepStatus(Answer):
    """One step of a workflow."""

    step = fields.String()
    execution_id = fields.String()
    job = fields.String()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    reason = fields.String(allow_none=True)
    needs = fields.List(fields.String(), metadata={"description": "The steps that it needs, by name."})


class BatchStatus(Answer):
    """A batch, or a workflow, as it stands."""

    id = fields.String()
    kind = fields.String(validate=ma.validate.OneOf(_KINDS))
    name = fields.String(allow_none=True)
    correlation_id = fields.String()
    total = integer("How many executions it has.")
    finished = integer("How many of them have ended.")
    progress = number("finished / total.")
    counts = fields.Dict(
        keys=fields.String(), values=fields.Integer(), metadata={"description": "How many are in which state."}
    )
    on_complete = fields.Dict(allow_none=True, metadata={"description": "The job that runs at the end."})
    completion_id = text("The execution of that job.", allow_none=True)
    problem = text("Why there is none.", allow_none=True)
    created_at = moment("When it was accepted.")
    created_by = fields.String()
    cancel_requested_at = moment("When somebody asked for all of it to be cancelled.", allow_none=True)
    cancel_requested_by = fields.String(allow_none=True)
    completed_at = moment("When the last execution had ended.", allow_none=True)
    steps = fields.List(
        fields.Nested(StepStatus),
        allow_none=True,
        metadata={"description": "Of a workflow, each after those that it needs; null for a batch, and in lists."},
    )
    links = fields.Dict(values=fields.String())
