"""Endpoint of /api/v1/executions/{id}/events: server-sent events of an execution.

A stream is a thread that polls SQL a few times a second: it is cheap while nothing happens, and needs no Redis. The
id of each event is a bookmark from which a client continues after it lost the connection.
"""

import random
import threading
from collections.abc import Iterator

import orjson
from flask import Response, request

from jobworker.api import headers, serializers
from jobworker.api.blueprint import Blueprint
from jobworker.api.context import ApiContext, get_context
from jobworker.domain.errors import ExecutionNotFound, InvalidCursor, TooManyStreams
from jobworker.services.executions import execution_stream
from jobworker.services.executions.execution_stream import EventCursor, ExecutionUpdate, MetadataUpdate, ProgressUpdate
from jobworker.store.executions.timeline import LogRow, TransitionRow

blueprint = Blueprint(
    "events", __name__, url_prefix=f"{serializers.ROOT}/executions", description="Live events of executions."
)

#: Shortest interval between polls (s), which people perceive as immediate; the longest; and the time without events
#: that doubles the shortest (s).
_MIN_POLL_SECONDS = 0.2
_MAX_POLL_SECONDS = 1.0
_BACKOFF_SECONDS = 5.0

#: Maximum duration of a stream (s); its client then connects again and continues after its last event.
_MAX_STREAM_SECONDS = 15 * 60.0

#: Time without events (s) after which a comment is sent: it keeps proxies from closing the stream and detects clients
#: that have disconnected.
_HEARTBEAT_SECONDS = 10.0

#: Time (s) to wait after the end of an execution for log lines that its worker sends late.
_LATE_LINES_SECONDS = 1.0

#: Schema without a type: generators and checkers disagree whether it describes the stream or one event.
_STREAM_RESPONSE = {
    "description": "Events `state` (attempt, state, at, actor, reason), `progress` (attempt, done, total, message), "
    "`metadata` (complete) and `log` (seq, attempt, at, level, logger, message), then `end`. Data are JSON objects.",
}


@blueprint.get("/<execution:execution_id>/events")
@blueprint.document_response(
    200, _STREAM_RESPONSE, "The stream; it ends after the final state.", content_type="text/event-stream"
)
@blueprint.document_headers(headers.LAST_EVENT_ID)
@blueprint.document_problems(ExecutionNotFound, InvalidCursor, TooManyStreams)
def follow_execution(execution_id: str) -> Response:
    """Stream the states, progress, metadata and log lines of an execution as server-sent events."""
    context = get_context()
    follower = execution_stream.open_cursor(context.database, execution_id, request.headers.get("Last-Event-ID"))
    address = request.remote_addr or ""
    context.streams.acquire(address)
    context.metrics.streams.inc()
    response = Response(_stream_events(context, follower), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(lambda: _release_stream(context, address))
    return response


def _release_stream(context: ApiContext, address: str) -> None:
    context.streams.release(address)
    context.metrics.streams.dec()


def _stream_events(context: ApiContext, follower: EventCursor) -> Iterator[bytes]:
    """Yield events until the execution has ended and its last log lines were sent, or the stream is too old."""
    never_set = threading.Event()
    started_at = sent_at = news_at = context.clock.monotonic()
    yield b"retry: 2000\n\n"
    while True:
        # All events in one part, because each part of a stream occupies a thread.
        part = b"".join(_format_event(news, follower.bookmark) for news in follower.poll(context.database))
        if part:
            yield part
            sent_at = news_at = context.clock.monotonic()
        now = context.clock.monotonic()
        if follower.is_done(now, _LATE_LINES_SECONDS):
            break
        if now - started_at >= _MAX_STREAM_SECONDS:
            return
        if now - sent_at >= _HEARTBEAT_SECONDS:
            yield b": still here\n\n"
            sent_at = now
        # Streams that were opened together must not poll together: other requests would wait for all of them.
        context.clock.wait(
            never_set,
            random.uniform(0.5, 1.0)
            * min(_MIN_POLL_SECONDS * (1 + (now - news_at) / _BACKOFF_SECONDS), _MAX_POLL_SECONDS),
        )
    yield b"event: end\ndata: {}\n\n"


def _format_event(news: ExecutionUpdate, bookmark: str) -> bytes:
    data = news.data if isinstance(news, ProgressUpdate | MetadataUpdate) else news
    # This JSON has no line breaks, so one data line is enough.
    line = orjson.dumps(data, option=orjson.OPT_UTC_Z)
    return f"id: {bookmark}\nevent: {_EVENT_TYPES[type(news)]}\ndata: ".encode() + line + b"\n\n"


_EVENT_TYPES = {TransitionRow: "state", LogRow: "log", ProgressUpdate: "progress", MetadataUpdate: "metadata"}
