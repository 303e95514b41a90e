"""Delivery of an attempt: the content of the relay's message, read from a Celery request."""

import datetime as dt
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from jobworker.transport.claims import Claim

#: The header that the relay writes, and the one in which the parent process stores the token of each delivery.
EXECUTION_HEADER = "jobworker"
TOKEN_HEADER = "jobworker_token"


#: The format that the Lua scripts match.
_EXECUTION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

#: Maximum number of an attempt, far beyond any real one.
_MAX_ATTEMPTS = 2**31


def generate_token() -> str:
    """Return a token that distinguishes one delivery of a message from another."""
    return secrets.token_hex(8)


class Delivery(NamedTuple):
    """An attempt of an execution, as it arrived at this worker.

    `policies` by name, if they are set; `metadata` was left by earlier attempts.
    """

    execution: str
    attempt: int
    job: str
    max_attempts: int | None
    correlation_id: str
    scheduled_for: dt.datetime | None
    token: str
    policies: Mapping[str, Any] = {}
    metadata: Mapping[str, Any] = {}

    @classmethod
    def from_header(cls, header: Mapping[str, Any], token: str | None) -> "Delivery":
        """Return the delivery of the relay's header of a message; `token` is the parent's token of this delivery.

        Raises `ValueError` for an invalid id of the execution, because files are named after it, and for an invalid
        number of the attempt, because a Lua script would fail.
        """
        if not _EXECUTION_ID.fullmatch(header["execution"]):
            raise ValueError("the id of the execution is invalid")
        if type(header["attempt"]) is not int or not 0 < header["attempt"] <= _MAX_ATTEMPTS:
            raise ValueError("the number of the attempt is invalid")
        scheduled_for = header.get("scheduled_for")
        return cls(
            execution=header["execution"],
            attempt=header["attempt"],
            job=header["job"],
            max_attempts=header.get("max_attempts"),
            correlation_id=header.get("correlation_id", ""),
            scheduled_for=dt.datetime.fromisoformat(scheduled_for) if scheduled_for else None,
            token=token or generate_token(),
            policies=header.get("policies", {}),
            metadata=header.get("metadata", {}),
        )

    def make_claim(self, worker: str) -> Claim:
        """Return the claim of `worker` to this attempt."""
        return Claim(self.execution, self.attempt, worker, self.token)
