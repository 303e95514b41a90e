"""/api/v1/queues: creating and removing them, what waits in them, and stopping them for a while."""

from typing import Any

from flask import Response

from jobworker.api import serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ACTOR, get_context
from jobworker.api.responses import make_json_response
from jobworker.api.schemas.base import PageQuerySchema, make_page_schema
from jobworker.api.schemas.queues import PauseBodySchema, QueueSchema
from jobworker.domain.errors import QueueInUse, QueueNotFound
from jobworker.services import queues

blueprint = Blueprint(
    "queues",
    __name__,
    url_prefix=f"{serializers.ROOT}/queues",
    description="Queues, which exist before they are named, and what waits in them. A paused one lets nothing start.",
)


@blueprint.get("")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(QueueSchema), "Queues by name.")
def list_queues(query: dict[str, Any]) -> Response:
    """List the queues that are shipped, declared in code, served by a live worker, or created here."""
    page = queues.list_page(get_context().database, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, _serialize_queue))


@blueprint.get("/<string:name>")
@blueprint.document_response(200, QueueSchema(), "The queue.")
@blueprint.document_problems(QueueNotFound)
def get_queue(name: str) -> Response:
    """Read a queue."""
    return make_json_response(_serialize_queue(queues.get(get_context().database, name)))


@blueprint.put("/<string:name>")
@blueprint.document_response(201, QueueSchema(), "It was created.")
@blueprint.document_response(200, QueueSchema(), "It exists already.")
def create_queue(name: str) -> Response:
    """Create a queue, which stays until it is removed. Asking again changes nothing."""
    queue, created = queues.create(get_context().database, get_context().clock, name, ACTOR)
    return make_json_response(_serialize_queue(queue), 201 if created else 200)


@blueprint.delete("/<string:name>")
@blueprint.document_response(204, None, "The queue is gone.")
@blueprint.document_problems(QueueNotFound, QueueInUse)
def delete_queue(name: str) -> Response:
    """Remove a queue that nothing uses."""
    queues.remove(get_context().database, get_context().clock, name, ACTOR)
    return Response(status=204)


@blueprint.post("/<string:name>/pause")
@blueprint.arguments(PauseBodySchema(), required=False)
@blueprint.document_response(200, QueueSchema(), "It is paused.")
@blueprint.document_problems(QueueNotFound)
def pause_queue(body: dict[str, Any], name: str) -> Response:
    """Let nothing more of a queue start; what runs goes on. Asking again changes nothing but the note."""
    queue = queues.pause(get_context().database, get_context().clock, name, ACTOR, body["note"])
    get_context().notify_change()
    return make_json_response(_serialize_queue(queue))


@blueprint.post("/<string:name>/resume")
@blueprint.document_response(200, QueueSchema(), "It goes on.")
@blueprint.document_problems(QueueNotFound)
def resume_queue(name: str) -> Response:
    """Let a queue go on. Asking again changes nothing."""
    queue = queues.resume(get_context().database, get_context().clock, name, ACTOR)
    get_context().notify_change()
    return make_json_response(_serialize_queue(queue))


def _serialize_queue(queue: queues.QueueStatus) -> dict[str, Any]:
    url, oldest = f"{serializers.ROOT}/queues/{queue.row.name}", queue.oldest_due_at
    age = max(0.0, (get_context().clock.now() - oldest).total_seconds()) if oldest else None
    return {
        "name": queue.row.name,
        "created_by": queue.row.created_by,
        "paused_at": queue.row.paused_at,
        "paused_by": queue.row.paused_by,
        "pause_note": queue.row.pause_note,
        "ready": queue.ready,
        "oldest_due_at": oldest,
        "oldest_age": age,
        "published": queue.published,
        "running": queue.running,
        "workers": queue.workers,
        "links": {
            "self": url,
            "pause": f"{url}/pause",
            "resume": f"{url}/resume",
            "executions": f"{serializers.ROOT}/executions?queue={queue.row.name}",
        },
    }
