"""The request headers that mean something here, read and described once."""

import re
from collections.abc import Collection
from typing import Any

from flask import request

from jobworker.api.room import room
from jobworker.domain.errors import PreconditionRequired
from jobworker.services.accepting import Once

#: Nobody may keep a request waiting for longer (s): proxies on the way give up as well.
LONGEST_WAIT = 30

_WAIT = re.compile(r"(?:\A|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:[;,]|\Z)", re.IGNORECASE | re.ASCII)
_REVISION = re.compile(r"[0-9]{1,9}\Z")


def _header(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "in": "header",
        "name": name,
        "required": False,
        "description": description,
        "schema": {"type": "string"},
        "example": example,
    }


#: Of answers with something that has revisions.
ETAG = {"ETag": {"description": "The revision.", "schema": {"type": "string"}}}

IDEMPOTENCY_KEY = _header(
    "Idempotency-Key",
    "1 to 255 characters. The same key with the same request gets the same answer for 24 hours and starts "
    "nothing twice; with another request it is refused (422).",
    "order-4711",
)
PREFER = _header(
    "Prefer",
    f"`wait=n`: answer 200 with the result if the execution ends within n seconds (at most {LONGEST_WAIT}), else 202.",
    "wait=10",
)
IF_MATCH = {
    **_header("If-Match", "The ETag of the revision that is to be changed, or `*`.", '"3"'),
    "required": True,
}
LAST_EVENT_ID = _header("Last-Event-ID", "The id of the last event seen: go on after it.", "1.1~")


def once() -> Once | None:
    """The Idempotency-Key of this request."""
    key = request.headers.get("Idempotency-Key")
    return None if key is None else Once(key, room().settings.idempotency_ttl)


def patience() -> int:
    """For how many seconds the client prefers to wait; 0 without a preference that we understand."""
    found = _WAIT.search(",".join(request.headers.getlist("Prefer")))
    return min(int(found[1]), LONGEST_WAIT) if found else 0


def expected_revisions() -> Collection[int] | None:
    """The revisions in If-Match; None stands for `*`. Raises `PreconditionRequired`."""
    if "If-Match" not in request.headers:
        raise PreconditionRequired("send If-Match with the ETag that GET returned, so that no change gets lost")
    if request.if_match.star_tag:
        return None
    # Of an empty tag Werkzeug makes None.
    return [int(tag) for tag in request.if_match.as_set() if _REVISION.match(tag or "")]
