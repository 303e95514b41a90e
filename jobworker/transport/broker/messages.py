"""A message on its way through a worker, and what is said about it."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from jobworker.transport.claims import Claim

#: As `attempt_of` in the scripts.
_ATTEMPT_PATTERN = re.compile(rb'{"headers":{"jobworker":{"execution":"([A-Za-z0-9-]+)","attempt":(\d+),')


class FetchedMessage(NamedTuple):
    """A message in this worker's in-flight hash; `ticket` if it is an attempt of an execution."""

    tag: str
    queue: str
    message: bytes
    claim: Claim | None
    fetched_at: float


class PendingReport(NamedTuple):
    """Something to tell Redis (an operation of `SETTLE`), and what to do once it is told."""

    operation: str
    tag: str
    execution: str = ""
    attempt: int = 0
    kind: str = ""
    data: str = ""
    callback: Callable[[], None] | None = None


def parse_claim(headers: Any, worker: str, tag: str) -> Claim | None:
    """The attempt that a message is about; None if the relay did not send it."""
    header = headers.get("jobworker") if isinstance(headers, dict) else None
    if not isinstance(header, dict):
        return None
    execution, attempt = header.get("execution"), header.get("attempt")
    return Claim(execution, attempt, worker, tag) if isinstance(execution, str) and isinstance(attempt, int) else None


def parse_claim_from_message(message: bytes, worker: str, tag: str) -> Claim | None:
    """The same for a message as it stands in Redis, by the rule of the scripts: what they have taken."""
    found = _ATTEMPT_PATTERN.match(message)
    return Claim(found[1].decode(), int(found[2]), worker, tag) if found else None
