"""/api/v1/retry: what a retry policy would do."""

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
@blueprint.document_response(200, PreviewSchema(), "The plan.")
def preview(body: dict[str, Any]) -> Response:
    """Say when each attempt of a policy would be, and how long it all takes, if every attempt failed at once."""
    planned_attempts = retry.preview_attempts(
        body["retry"], body["start"] or get_context().clock.now(), body["attempts"]
    )
    return make_json_response(serializers.serialize_retry_plan(planned_attempts))
