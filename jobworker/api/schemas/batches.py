"""Batches and workflows."""

from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.api.fields import CodedMessage
from jobworker.api.schemas.base import (
    ResponseSchema,
    StrictSchema,
    datetime_field,
    integer_field,
    number_field,
    text_field,
)
from jobworker.api.schemas.executions import STATES, BatchItemSchema, CompletionBodySchema, describe_condition
from jobworker.domain.jobs.admission import MAX_CORRELATION_ID_LENGTH, Submission
from jobworker.domain.workflows.dependency import MAX_PARENTS, UnmetDependencyAction
from jobworker.domain.workflows.workflow import MAX_STEPS, Workflow, WorkflowStep
from jobworker.store.executions.batches import BatchKind

_OTHERWISE_VALUES = [each.value for each in UnmetDependencyAction]
_KIND_VALUES = [each.value for each in BatchKind]


class StepBodySchema(BatchItemSchema):
    """One step: an execution, and the steps that it needs."""

    needs = fields.Raw(
        load_default=(),
        metadata={
            "type": "array",
            "items": describe_condition("step"),
            "maxItems": MAX_PARENTS,
            "description": "Steps that have to end first: names, or objects with step, on (success, failure, any) and "
            "otherwise (skip, fail, continue).",
        },
    )
    on_failure = fields.String(
        load_default=None,
        allow_none=True,
        metadata={
            "enum": [*_OTHERWISE_VALUES, None],
            "description": "What becomes of steps that need the success of this one.",
        },
    )

    @ma.post_load
    def to_submission(self, data: dict[str, Any], **_: Any) -> Any:
        """What the use case takes."""
        step_options = {name: data.pop(name) for name in ("needs", "on_failure")}
        return WorkflowStep(Submission(**data), **step_options)


class _StepsField(fields.Dict):
    """Steps by their names; what is wrong in one is told with its place."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, WorkflowStep]:
        if not isinstance(value, dict):
            raise ma.ValidationError(CodedMessage("wrong_type", "must be a JSON object"))
        if not 0 < len(value) <= MAX_STEPS:
            raise ma.ValidationError(CodedMessage("not_allowed", f"must have 1 to {MAX_STEPS} steps, not {len(value)}"))
        steps: dict[str, WorkflowStep] = {}
        problems: dict[Any, Any] = {}
        for name, each in value.items():
            try:
                steps[name] = _STEP_SCHEMA.load(each)
            except ma.ValidationError as error:
                problems[name] = error.messages
        if problems:
            raise ma.ValidationError(problems)
        return steps


_STEP_SCHEMA = StepBodySchema()


class WorkflowBodySchema(StrictSchema):
    """Steps that are accepted together or not at all."""

    name = fields.String(load_default=None, allow_none=True, metadata={"maxLength": 128})
    correlation_id = fields.String(
        load_default=None,
        allow_none=True,
        metadata={
            "maxLength": MAX_CORRELATION_ID_LENGTH,
            "description": "Of each step that has none of its own; null: the id of the workflow.",
        },
    )
    steps = _StepsField(
        keys=fields.String(),
        values=fields.Nested(StepBodySchema),
        required=True,
        metadata={"example": {"extract": {"job": "extract"}, "load": {"job": "load", "needs": ["extract"]}}},
    )
    on_failure = fields.String(
        load_default=None,
        allow_none=True,
        validate=ma.validate.OneOf(_OTHERWISE_VALUES),
        metadata={"description": "null: skip."},
    )
    on_complete = fields.Nested(CompletionBodySchema, load_default=None, allow_none=True)

    @ma.post_load
    def to_workflow(self, data: dict[str, Any], **_: Any) -> Workflow:
        """What the use case takes."""
        return Workflow(**data)


class StepStatusSchema(ResponseSchema):
    """One step of a workflow."""

    step = fields.String()
    execution_id = fields.String()
    job = fields.String()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    reason = fields.String(allow_none=True)
    needs = fields.List(fields.String(), metadata={"description": "The steps that it needs, by name."})


class BatchStatusSchema(ResponseSchema):
    """A batch, or a workflow, as it stands."""

    id = fields.String()
    kind = fields.String(validate=ma.validate.OneOf(_KIND_VALUES))
    name = fields.String(allow_none=True)
    correlation_id = fields.String()
    total = integer_field("How many executions it has.")
    finished = integer_field("How many of them have ended.")
    progress = number_field("finished / total.")
    counts = fields.Dict(
        keys=fields.String(), values=fields.Integer(), metadata={"description": "How many are in which state."}
    )
    on_complete = fields.Dict(allow_none=True, metadata={"description": "The job that runs at the end."})
    completion_id = text_field("The execution of that job.", allow_none=True)
    problem = text_field("Why there is none.", allow_none=True)
    created_at = datetime_field("When it was accepted.")
    created_by = fields.String()
    cancel_requested_at = datetime_field("When somebody asked for all of it to be cancelled.", allow_none=True)
    cancel_requested_by = fields.String(allow_none=True)
    completed_at = datetime_field("When the last execution had ended.", allow_none=True)
    steps = fields.List(
        fields.Nested(StepStatusSchema),
        allow_none=True,
        metadata={"description": "Of a workflow, each after those that it needs; null for a batch, and in lists."},
    )
    links = fields.Dict(values=fields.String())
