"""The request headers that mean something here, read and described once."""

import re
from collections.abc import Collection
from typing import Any

from flask import request

from jobworker.api.context import get_context
from jobworker.domain.errors import PreconditionRequired
from jobworker.services.submissions.commit import IdempotencyKey

#: Nobody may keep a request waiting for longer (s): proxies on the way give up as well.
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


#: Of answers with something that has revisions.
ETAG_RESPONSE_HEADER = {"ETag": {"description": "The revision.", "schema": {"type": "string"}}}

IDEMPOTENCY_KEY = _describe_header(
    "Idempotency-Key",
    "1 to 255 characters. The same key with the same request gets the same answer for 24 hours and starts "
    "nothing twice; with another request it is refused (422).",
    "order-4711",
)
PREFER = _describe_header(
    "Prefer",
    f"`wait=n`: answer 200 with the result if the execution ends within n seconds (at most {MAX_WAIT_SECONDS}), else 202.",
    "wait=10",
)
IF_MATCH = {
    **_describe_header("If-Match", "The ETag of the revision that is to be changed, or `*`.", '"3"'),
    "required": True,
}
LAST_EVENT_ID = _describe_header("Last-Event-ID", "The id of the last event seen: go on after it.", "1.1~")


def read_idempotency_key() -> IdempotencyKey | None:
    """The Idempotency-Key of this request."""
    key = request.headers.get("Idempotency-Key")
    return None if key is None else IdempotencyKey(key, get_context().settings.idempotency_ttl)


def read_preferred_wait() -> int:
    """For how many seconds the client prefers to wait; 0 without a preference that we understand."""
    preference = _WAIT_PREFERENCE.search(",".join(request.headers.getlist("Prefer")))
    return min(int(preference[1]), MAX_WAIT_SECONDS) if preference else 0


def read_expected_revisions() -> Collection[int] | None:
    """The revisions in If-Match; None stands for `*`. Raises `PreconditionRequired`."""
    if "If-Match" not in request.headers:
        raise PreconditionRequired("send If-Match with the ETag that GET returned, so that no change gets lost")
    if request.if_match.star_tag:
        return None
    # Of an empty tag Werkzeug makes None.
    return [int(tag) for tag in request.if_match.as_set() if _REVISION_TAG.match(tag or "")]
