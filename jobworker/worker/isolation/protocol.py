"""What a job's own process and its worker say to each other.

The worker writes to the process's standard input: first the order (`Order`), one line of JSON, and then words, a line
each: `cancelled`, and `limit N` when the soft time limit of N seconds has passed. The process writes messages, lines of
JSON, each an object with one of these fields:

    begun      true: the job begins, its limits count from now
    line       a line of its log: [message, level, logger, time (RFC 3339)]
    dropped    it has said more than a log holds: [lines, bytes] more
    record     a line of the worker's own log: [message, level (number), logger]
    progress   {"done", "total", "message"}
    metadata   what has changed; null: removed
    extended   by how many seconds the job has extended its limits
    ended      {"answer": what Celery tells of the result, "report": [kind, data]}; the last
"""

import json
import os
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple


class RunRequest(NamedTuple):
    """The attempt, as Celery hands it to a process of its pool, and for whom it runs."""

    task: str
    id: str
    request: Mapping[str, Any]
    payload: Any
    worker: str
    code_version: str
    level: int

    def to_line(self) -> bytes:
        """As the process reads it."""
        # What Celery adds to a request in this process need not be JSON, and nobody asks for it there.
        return json.dumps(self._asdict(), default=str).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "RunRequest":
        """The inverse of `to_line`."""
        return cls(**json.loads(line))


class MessageWriter:
    """The process's end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def reset_after_fork(self) -> None:
        """Forget, in a process that the job has forked, which thread was writing."""
        self._lock = threading.Lock()

    def send(self, field: str, value: Any) -> None:
        """Send a message, from any thread."""
        left = json.dumps({field: value}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            while left:
                left = left[os.write(self._descriptor, left) :]
