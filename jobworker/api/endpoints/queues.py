"""Endpoints of /api/v1/queues."""

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
    description="Queues and their backlogs. A request may name only existing queues. A paused queue starts nothing.",
)


@blueprint.get("")
@blueprint.accept_query(PageQuerySchema())
@blueprint.document_response(200, make_page_schema(QueueSchema), "Queues, sorted by name.")
def list_queues(query: dict[str, Any]) -> Response:
    """List queues: shipped, declared in code, consumed by a live worker, or created over the API."""
    page = queues.list_page(get_context().database, query["limit"], query["cursor"])
    return make_json_response(serializers.serialize_page(page, _serialize_queue))


@blueprint.get("/<string:name>")
@blueprint.document_response(200, QueueSchema(), "The queue.")
@blueprint.document_problems(QueueNotFound)
def get_queue(name: str) -> Response:
    """Get a queue."""
    return make_json_response(_serialize_queue(queues.get(get_context().database, name)))


@blueprint.put("/<string:name>")
@blueprint.document_response(201, QueueSchema(), "The queue was created.")
@blueprint.document_response(200, QueueSchema(), "The queue exists already.")
def create_queue(name: str) -> Response:
    """Create a queue, which exists until it is deleted. Repeating the request changes nothing."""
    queue, created = queues.create(get_context().database, get_context().clock, name, ACTOR)
    return make_json_response(_serialize_queue(queue), 201 if created else 200)


@blueprint.delete("/<string:name>")
@blueprint.document_response(204, None, "The queue was deleted.")
@blueprint.document_problems(QueueNotFound, QueueInUse)
def delete_queue(name: str) -> Response:
    """Delete an unused queue."""
    queues.remove(get_context().database, get_context().clock, name, ACTOR)
    return Response(status=204)


@blueprint.post("/<string:name>/pause")
@blueprint.arguments(PauseBodySchema(), required=False)
@blueprint.document_response(200, QueueSchema(), "The queue is paused.")
@blueprint.document_problems(QueueNotFound)
def pause_queue(body: dict[str, Any], name: str) -> Response:
    """Pause a queue: no more executions start, running ones continue. Repeating the request changes only the note."""
    queue = queues.pause(get_context().database, get_context().clock, name, ACTOR, body["note"])
    get_context().notify_change()
    return make_json_response(_serialize_queue(queue))


@blueprint.post("/<string:name>/resume")
@blueprint.document_response(200, QueueSchema(), "The queue is not paused.")
@blueprint.document_problems(QueueNotFound)
def resume_queue(name: str) -> Response:
    """Resume a queue. Repeating the request changes nothing."""
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
