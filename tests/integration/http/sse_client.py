"""Parser of server-sent events that follows the rules for browsers."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ServerSentEvent:
    """Event or comment of a stream."""

    kind: str
    id: str | None
    data: Any


def parse_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Yield the events in a stream of bytes that may be split anywhere."""
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        while b"\n\n" in buffer:
            block, _, buffer = buffer.partition(b"\n\n")
            event = _parse_event(block.decode())
            if event is not None:
                yield event


def _parse_event(block: str) -> ServerSentEvent | None:
    if block.startswith(":"):
        return ServerSentEvent("comment", None, {})
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    if "data" not in fields:
        return None
    return ServerSentEvent(fields.get("event", "message"), fields.get("id"), json.loads(fields["data"]))
