"""/api/v1/retry: what a retry policy would do."""

from typing import Any

from flask import Response

from jobworker.api import show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import room
from jobworker.api.schemas.retry import Preview, PreviewBody
from jobworker.domain import retry

blueprint = Blueprint("retry", __name__, url_prefix=f"{show.ROOT}/retry", description="Retry policies.")


@blueprint.post("/preview")
@blueprint.arguments(PreviewBody())
@blueprint.document_response(200, Preview(), "The plan.")
def preview(body: dict[str, Any]) -> Response:
    """Say when each attempt of a policy would be, and how long it all takes, if every attempt failed at once."""
    planned = retry.preview(body["retry"], body["start"] or room().clock.now(), body["attempts"])
    return answer(show.plan(planned))
