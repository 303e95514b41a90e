"""/api/v1/queues: creating and removing them, what waits in them, and stopping them for a while."""

from typing import Any

from flask import Response

from jobworker.api import show
from jobworker.api.answers import answer
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import ACTOR, room
from jobworker.api.schemas.base import PageQuery, page_of
from jobworker.api.schemas.queues import PauseBody, Queue
from jobworker.domain.errors import QueueInUse, QueueNotFound
from jobworker.services import queues

blueprint = Blueprint(
    "queues",
    __name__,
    url_prefix=f"{show.ROOT}/queues",
    description="Queues, which exist before they are named, and what waits in them. A paused one lets nothing start.",
)


@blueprint.get("")
@blueprint.accept_query(PageQuery())
@blueprint.document_response(200, page_of(Queue), "Queues by name.")
def list_queues(query: dict[str, Any]) -> Response:
    """List the queues that are shipped, declared in code, served by a live worker, or created here."""
    found = queues.page(room().database, query["limit"], query["cursor"])
    return answer(show.page(found, _shown))


@blueprint.get("/<string:name>")
@blueprint.document_response(200, Queue(), "The queue.")
@blueprint.document_problems(QueueNotFound)
def get_queue(name: str) -> Response:
    """Read a queue."""
    return answer(_shown(queues.get(room().database, name)))


@blueprint.put("/<string:name>")
@blueprint.document_response(201, Queue(), "It was created.")
@blueprint.document_response(200, Queue(), "It exists already.")
def create_queue(name: str) -> Response:
    """Create a queue, which stays until it is removed. Asking again changes nothing."""
    queue, new = queues.create(room().database, room().clock, name, ACTOR)
    return answer(_shown(queue), 201 if new else 200)


@blueprint.delete("/<string:name>")
@blueprint.document_response(204, None, "The queue is gone.")
@blueprint.document_problems(QueueNotFound, QueueInUse)
def delete_queue(name: str) -> Response:
    """Remove a queue that nothing uses."""
    queues.remove(room().database, room().clock, name, ACTOR)
    return Response(status=204)


@blueprint.post("/<string:name>/pause")
@blueprint.arguments(PauseBody(), required=False)
@blueprint.document_response(200, Queue(), "It is paused.")
@blueprint.document_problems(QueueNotFound)
def pause_queue(body: dict[str, Any], name: str) -> Response:
    """Let nothing more of a queue start; what runs goes on. Asking again changes nothing but the note."""
    paused = queues.pause(room().database, room().clock, name, ACTOR, body["note"])
    room().notify_change()
    return answer(_shown(paused))


@blueprint.post("/<string:name>/resume")
@blueprint.document_response(200, Queue(), "It goes on.")
@blueprint.document_problems(QueueNotFound)
def resume_queue(name: str) -> Response:
    """Let a queue go on. Asking again changes nothing."""
    resumed = queues.resume(room().database, room().clock, name, ACTOR)
    room().notify_change()
    return answer(_shown(resumed))


def _shown(queue: queues.Queue) -> dict[str, Any]:
    here, oldest = f"{show.ROOT}/queues/{queue.row.name}", queue.oldest_due_at
    age = max(0.0, (room().clock.now() - oldest).total_seconds()) if oldest else None
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
            "self": here,
            "pause": f"{here}/pause",
            "resume": f"{here}/resume",
            "executions": f"{show.ROOT}/executions?queue={queue.row.name}",
        },
    }
