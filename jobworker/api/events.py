"""/api/v1/executions/{id}/events: an execution live, as server-sent events.

A stream is a thread that looks into SQL a few times a second: cheap while nothing happens, and it
needs no Redis. Each event's id is a bookmark from which a client that lost the connection goes on.
"""

import random
import threading
from collections.abc import Iterator

import orjson
from flask import Response, request

from jobworker.api import headers, show
from jobworker.api.blueprint import Blueprint
from jobworker.api.room import Room, room
from jobworker.domain.errors import ExecutionNotFound, InvalidCursor, TooManyStreams
from jobworker.services import following
from jobworker.services.following import Follower, Metadata, News, Progress
from jobworker.store.story import LogRow, TransitionRow

blueprint = Blueprint(
    "events", __name__, url_prefix=f"{show.ROOT}/executions", description="Executions while they happen."
)

#: Between two looks (s): what a person feels as "at once"; the longest, and the silence that doubles the shortest (s).
_PAUSE = 0.2
_LONGEST_PAUSE = 1.0
_SILENCE = 5.0

#: A stream lives for so long (s); then its client connects again and goes on from its last event.
_LONGEST = 15 * 60.0

#: A comment after so much silence (s) keeps proxies from closing the stream, and notices who has left.
_HEARTBEAT = 10.0

#: What a worker could not send before the end is waited for so long (s).
_GRACE = 1.0

#: Without a type: generators and checkers disagree whether the schema is that of the stream or of one event.
_STREAM = {
    "description": "Events `state` (attempt, state, at, actor, reason), `progress` (attempt, done, total, message), "
    "`metadata` (all of it) and `log` (seq, attempt, at, level, logger, message), then `end`. Data are JSON objects.",
}


@blueprint.get("/<execution:execution_id>/events")
@blueprint.document_response(200, _STREAM, "The stream; it ends after the final state.", content_type="text/event-stream")
@blueprint.document_headers(headers.LAST_EVENT_ID)
@blueprint.document_problems(ExecutionNotFound, InvalidCursor, TooManyStreams)
def follow_execution(execution_id: str) -> Response:
    """Follow an execution: states, progress, metadata and log lines as they come (server-sent events)."""
    here = room()
    follower = following.follow(here.database, execution_id, request.headers.get("Last-Event-ID"))
    address = request.remote_addr or ""
    here.streams.acquire(address)
    here.metrics.streams.inc()
    response = Response(_stream(here, follower), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(lambda: _release(here, address))
    return response


def _release(here: Room, address: str) -> None:
    here.streams.release(address)
    here.metrics.streams.dec()


def _stream(here: Room, follower: Follower) -> Iterator[bytes]:
    """Events until the execution has ended and its last lines were sent, or the stream has lived its longest."""
    nothing = threading.Event()
    began = spoken = news_at = here.clock.monotonic()
    yield b"retry: 2000\n\n"
    while True:
        # In one part: a stream of a long log takes a thread for each part.
        part = b"".join(_event(news, follower.bookmark) for news in follower.poll(here.database))
        if part:
            yield part
            spoken = news_at = here.clock.monotonic()
        now = here.clock.monotonic()
        if follower.is_done(now, _GRACE):
            break
        if now - began >= _LONGEST:
            return
        if now - spoken >= _HEARTBEAT:
            yield b": still here\n\n"
            spoken = now
        # Streams that were opened together must not look together: other requests would wait for all of them.
        here.clock.wait(
            nothing, random.uniform(0.5, 1.0) * min(_PAUSE * (1 + (now - news_at) / _SILENCE), _LONGEST_PAUSE)
        )
    yield b"event: end\ndata: {}\n\n"


def _event(news: News, bookmark: str) -> bytes:
    data = news.data if isinstance(news, Progress | Metadata) else news
    # JSON has no line breaks of its own, so one data line is enough.
    line = orjson.dumps(data, option=orjson.OPT_UTC_Z)
    return f"id: {bookmark}\nevent: {_KINDS[type(news)]}\ndata: ".encode() + line + b"\n\n"


_KINDS = {TransitionRow: "state", LogRow: "log", Progress: "progress", Metadata: "metadata"}
