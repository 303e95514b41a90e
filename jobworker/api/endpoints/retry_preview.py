"""Endpoint of /api/v1/retry: preview of a retry policy."""

from typing import Any

from flask import Response

from jobworker.api import serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.retry import PreviewBodySchema, PreviewSchema
from jobworker.domain.jobs import retry

blueprint = Blueprint("retry", __name__, url_prefix=f"{serializers.ROOT}/retry", description="Retry policies.")


@blueprint.post("/preview")
@blueprint.arguments(PreviewBodySchema())
@blueprint.document_response(200, PreviewSchema(), "The planned attempts.")
def preview(body: dict[str, Any]) -> Response:
    """Preview the times of a policy's attempts and their total duration, if each attempt failed immediately."""
    planned_attempts = retry.preview_attempts(
        body["retry"], body["start"] or get_context().clock.now(), body["attempts"]
    )
    return make_json_response(serializers.serialize_retry_plan(planned_attempts))
