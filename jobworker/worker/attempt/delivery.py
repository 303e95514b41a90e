"""What a message from the relay says, read from a Celery request."""

import datetime as dt
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from jobworker.transport.claims import Claim

#: The header that the relay writes, and the one under which the parent numbers each delivery.
EXECUTION_HEADER = "jobworker"
TOKEN_HEADER = "jobworker_token"


#: As the scripts of Redis read it.
_EXECUTION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")

#: Far more than any execution has.
_MAX_ATTEMPTS = 2**31


def generate_token() -> str:
    """Tells one delivery of a message from another of the same message."""
    return secrets.token_hex(8)


class Delivery(NamedTuple):
    """One attempt of one execution, as it arrived at this worker.

    `policies` by name, if they are set; `metadata` is what the attempts before this one have left.
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
        """From the relay's header of a message; `token` is the parent's number of this delivery.

        Raises `ValueError` for an id of an execution that is none, after which files are named, and for a number of an
        attempt that is none: a script of Redis would fail.
        """
        if not _EXECUTION_ID.fullmatch(header["execution"]):
            raise ValueError("the id of the execution is none")
        if type(header["attempt"]) is not int or not 0 < header["attempt"] <= _MAX_ATTEMPTS:
            raise ValueError("the number of the attempt is none")
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
        """The claim to this attempt in the name of `worker`."""
        return Claim(self.execution, self.attempt, worker, self.token)
