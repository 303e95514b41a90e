"""Schemas of batches and workflows."""

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
from jobworker.domain.submissions.submission import MAX_CORRELATION_ID_LENGTH, Submission
from jobworker.domain.workflows.dependency import MAX_PARENTS, UnmetDependencyAction
from jobworker.domain.workflows.workflow import MAX_STEPS, Workflow, WorkflowStep
from jobworker.store.workflows.batches import BatchKind

_OTHERWISE_VALUES = [action.value for action in UnmetDependencyAction]
_KIND_VALUES = [kind.value for kind in BatchKind]


class StepBodySchema(BatchItemSchema):
    """Step of a workflow: an execution and its dependencies on other steps."""

    needs = fields.Raw(
        load_default=(),
        metadata={
            "type": "array",
            "items": describe_condition("step"),
            "maxItems": MAX_PARENTS,
            "description": "Steps that must end first: names, or objects with step, on (success, failure, any) and "
            "otherwise (skip, fail, continue).",
        },
    )
    on_failure = fields.String(
        load_default=None,
        allow_none=True,
        metadata={
            "enum": [*_OTHERWISE_VALUES, None],
            "description": "Action for steps that need this step to succeed, if it does not.",
        },
    )

    @ma.post_load
    def to_submission(self, data: dict[str, Any], **_: Any) -> Any:
        """Convert the body to the input of the use case."""
        step_options = {name: data.pop(name) for name in ("needs", "on_failure")}
        return WorkflowStep(Submission(**data), **step_options)


class _StepsField(fields.Dict):
    """Steps by name; errors contain the place in the step."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, WorkflowStep]:
        if not isinstance(value, dict):
            raise ma.ValidationError(CodedMessage("wrong_type", "must be a JSON object"))
        if not 0 < len(value) <= MAX_STEPS:
            raise ma.ValidationError(CodedMessage("not_allowed", f"must have 1 to {MAX_STEPS} steps, not {len(value)}"))
        steps: dict[str, WorkflowStep] = {}
        problems: dict[Any, Any] = {}
        for name, step in value.items():
            try:
                steps[name] = _STEP_SCHEMA.load(step)
            except ma.ValidationError as error:
                problems[name] = error.messages
        if problems:
            raise ma.ValidationError(problems)
        return steps


_STEP_SCHEMA = StepBodySchema()


class WorkflowBodySchema(StrictSchema):
    """Workflow whose steps are accepted together or not at all."""

    name = fields.String(load_default=None, allow_none=True, metadata={"maxLength": 128})
    correlation_id = fields.String(
        load_default=None,
        allow_none=True,
        metadata={
            "maxLength": MAX_CORRELATION_ID_LENGTH,
            "description": "Correlation id of each step without its own; null: the id of the workflow.",
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
        metadata={"description": "Default `on_failure` of the steps; null: skip."},
    )
    on_complete = fields.Nested(CompletionBodySchema, load_default=None, allow_none=True)

    @ma.post_load
    def to_workflow(self, data: dict[str, Any], **_: Any) -> Workflow:
        """Convert the body to the input of the use case."""
        return Workflow(**data)


class StepStatusSchema(ResponseSchema):
    """Step of a workflow."""

    step = fields.String()
    execution_id = fields.String()
    job = fields.String()
    state = fields.String(validate=ma.validate.OneOf(STATES))
    reason = fields.String(allow_none=True)
    needs = fields.List(fields.String(), metadata={"description": "Names of the steps that this step depends on."})


class BatchStatusSchema(ResponseSchema):
    """Status of a batch or workflow."""

    id = fields.String()
    kind = fields.String(validate=ma.validate.OneOf(_KIND_VALUES))
    name = fields.String(allow_none=True)
    correlation_id = fields.String()
    total = integer_field("Number of executions.")
    finished = integer_field("Number of executions that have ended.")
    progress = number_field("Ratio of `finished` to `total`.")
    counts = fields.Dict(
        keys=fields.String(), values=fields.Integer(), metadata={"description": "Number of executions in each state."}
    )
    on_complete = fields.Dict(
        allow_none=True, metadata={"description": "Job that runs when all executions have ended."}
    )
    completion_id = text_field("Execution of the `on_complete` job.", allow_none=True)
    problem = text_field("Reason why the `on_complete` job has no execution.", allow_none=True)
    created_at = datetime_field("Time when the batch was accepted.")
    created_by = fields.String()
    cancel_requested_at = datetime_field("Time when cancellation of the whole batch was requested.", allow_none=True)
    cancel_requested_by = fields.String(allow_none=True)
    completed_at = datetime_field("Time when the last execution ended.", allow_none=True)
    steps = fields.List(
        fields.Nested(StepStatusSchema),
        allow_none=True,
        metadata={"description": "Steps of a workflow, each after its dependencies; null for a batch and in lists."},
    )
    links = fields.Dict(values=fields.String())
