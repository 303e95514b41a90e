"""Request headers that the API uses: their parsers and their descriptions."""

import re
from collections.abc import Collection
from typing import Any

from flask import request

from jobworker.api.context import get_context
from jobworker.domain.errors import PreconditionRequired
from jobworker.services.submissions.commit import IdempotencyKey

#: Maximum time (s) that a request may wait for the end of an execution, because proxies give up as well.
MAX_WAIT_SECONDS = 30

_WAIT_PREFERENCE = re.compile(r"(?:\A|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:[;,]|\Z)", re.IGNORECASE | re.ASCII)
_REVISION_TAG = re.compile(r"[0-9]{1,9}\Z")


def _describe_header(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "in": "header",
        "name": name,
        "required": False,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


#: Header of responses with a resource that has revisions.
ETAG_RESPONSE_HEADER = {"ETag": {"description": "Revision of the resource.", "schema": {"type": "string"}}}

IDEMPOTENCY_KEY = _describe_header(
    "Idempotency-Key",
    "1 to 255 characters. For 24 hours a repetition of the request with its key gets the first response and creates "
    "nothing; another request with this key is rejected (422).",
    "order-4711",
)
PREFER = _describe_header(
    "Prefer",
    f"`wait=n`: respond with 200 and the result if the execution ends within n seconds (at most {MAX_WAIT_SECONDS}), "
    "else with 202.",
    "wait=10",
)
IF_MATCH = {
    **_describe_header("If-Match", "ETag of the revision to change, or `*`.", '"3"'),
    "required": True,
}
LAST_EVENT_ID = _describe_header(
    "Last-Event-ID", "Id of the last event received; the stream continues after it.", "1.1~"
)


def read_idempotency_key() -> IdempotencyKey | None:
    """Return the Idempotency-Key of this request."""
    key = request.headers.get("Idempotency-Key")
    return None if key is None else IdempotencyKey(key, get_context().settings.idempotency_ttl)


def read_preferred_wait() -> int:
    """Return the time (s) that the client prefers to wait; 0 without a valid preference."""
    preference = _WAIT_PREFERENCE.search(",".join(request.headers.getlist("Prefer")))
    return min(int(preference[1]), MAX_WAIT_SECONDS) if preference else 0


def read_expected_revisions() -> Collection[int] | None:
    """Return the revisions in If-Match, or None for `*`. Raises `PreconditionRequired` without the header."""
    if "If-Match" not in request.headers:
        raise PreconditionRequired("send If-Match with the ETag that GET returned, so that no change gets lost")
    if request.if_match.star_tag:
        return None
    # Werkzeug parses an empty tag as None.
    return [int(tag) for tag in request.if_match.as_set() if _REVISION_TAG.match(tag or "")]
