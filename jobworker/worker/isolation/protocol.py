"""The protocol between a worker and the child process of a job.

The worker writes to the child's standard input: first the request (`RunRequest`), one line of JSON, and then commands,
one a line: `cancelled`, and `limit N` when the soft time limit of N seconds has passed. The child writes messages,
lines of JSON, each an object with one of these fields:

    begun      true: the job begins, its limits count from now
    line       a line of its log: [message, level, logger, time (RFC 3339)]
    dropped    more output than a log holds was dropped: [lines, bytes]
    record     a line of the worker's own log: [message, level (number), logger]
    progress   {"done", "total", "message"}
    metadata   names that changed; null: removed
    extended   by how many seconds the job has extended its limits
    ended      {"answer": the result as Celery shows it, "report": [kind, data]}; the last message
"""

import json
import os
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple


class RunRequest(NamedTuple):
    """An attempt, as Celery passes it to a process of its pool, and the worker for which it runs."""

    task: str
    id: str
    request: Mapping[str, Any]
    payload: Any
    worker: str
    code_version: str
    level: int

    def to_line(self) -> bytes:
        """Return the request as a line of JSON for the child process."""
        # Celery adds values to a request in this process that are not JSON; the child process does not need them.
        return json.dumps(self._asdict(), default=str).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "RunRequest":
        """Return the request of a line; the inverse of `to_line`."""
        return cls(**json.loads(line))


class MessageWriter:
    """The child's end of the message pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def reset_after_fork(self) -> None:
        """Reset the lock in a process that the job has forked, because another thread may have held it."""
        self._lock = threading.Lock()

    def send(self, field: str, value: Any) -> None:
        """Send a message, from any thread."""
        unsent = json.dumps({field: value}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            while unsent:
                unsent = unsent[os.write(self._descriptor, unsent) :]
