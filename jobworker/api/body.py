"""Reading JSON strictly: what cannot be stored, compared and shown again unchanged does not get in."""

import json
import re
from typing import Any

import orjson
from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from jobworker.api.problems import MalformedBody, UnsupportedMediaType

#: Deeper nesting has no use here and would be refused by whoever has to write it out again.
_DEEPEST = 64

#: So many of these characters bound the values of a body: each takes some 100 bytes of memory once it is read.
_SEPARATORS = (b",", b"[", b"{")
_MOST_SEPARATORS = 500_000

_SMALLEST_INTEGER = -(2**63)
_LARGEST_INTEGER = 2**64 - 1

#: What JavaScript and Python write where JSON has nothing.
_NO_NUMBER = re.compile(rb"[:,\[]\s*-?(?:NaN|Infinity)\b")

#: Fewer digits fit into 64 bits, and need no second look.
_MANY_DIGITS = re.compile(rb"[0-9]{19}")


def read(request: Request, needed: bool) -> Any:
    """The body of a request, `{}` if there may be none; raises `MalformedBody` or `UnsupportedMediaType`."""
    raw = _all(request)
    if not raw.strip():
        if not needed:
            return {}
        raise MalformedBody("this request needs a JSON body")
    if not request.is_json:
        raise UnsupportedMediaType(f"send Content-Type: application/json, not {request.mimetype or 'nothing'}")
    return parse(raw)


def text(request: Request, media_type: str) -> bytes:
    """The body of a request that must be of this type; raises `UnsupportedMediaType`."""
    if request.mimetype != media_type:
        raise UnsupportedMediaType(f"send Content-Type: {media_type}, not {request.mimetype or 'nothing'}")
    return _all(request)


def parse(raw: bytes) -> Any:
    """The value that `raw` says, if every part of it can be kept as it is."""
    if len(raw) > _MOST_SEPARATORS and sum(map(raw.count, _SEPARATORS)) > _MOST_SEPARATORS:
        raise MalformedBody(f"the body has more than {_MOST_SEPARATORS:,} of the characters , [ and {{; split it")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # NaN and Infinity, numbers that are infinite, bytes that are no UTF-8 and half surrogates end here too.
        hint = "; JSON has no NaN and no Infinity" if _NO_NUMBER.search(raw) else ""
        raise MalformedBody(f"the body is not valid JSON: {error}{hint}") from None
    _check(value)
    if _MANY_DIGITS.search(raw):
        # orjson turns integers that do not fit into floats without a word.
        json.loads(raw, parse_int=_bounded)
    return value


def _all(request: Request) -> bytes:
    raw = request.get_data(cache=True)
    # A body that came in chunks is silently cut at the limit; one that announced its length was refused before.
    if request.content_length is None and len(raw) >= (request.max_content_length or len(raw) + 1):
        raise RequestEntityTooLarge
    return raw


def _check(value: Any) -> None:
    """Refuse nesting that is too deep and the character NUL, which PostgreSQL cannot store."""
    level = [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.keys())
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str) and "\0" in item:
                raise MalformedBody("the character NUL (\\u0000) is not allowed in text")
        if not below:
            return
        level = below
    raise MalformedBody(f"the body is nested more than {_DEEPEST} levels deep")


def _bounded(digits: str) -> int:
    # The length first: turning a million digits into a number takes for ever.
    if len(digits) > len(str(_LARGEST_INTEGER)) or not _SMALLEST_INTEGER <= int(digits) <= _LARGEST_INTEGER:
        raise MalformedBody(f"{digits[:24]}… does not fit into 64 bits; send it as a string")
    return int(digits)
