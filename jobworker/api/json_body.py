"""Reading JSON strictly: what cannot be stored, compared and shown again unchanged does not get in."""

import re
from typing import Any, NoReturn

import orjson
from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from jobworker.api.problems import MalformedBody, UnsupportedMediaType
from jobworker.domain.errors import FieldError
from jobworker.domain.json import json_values
from jobworker.domain.json.json_values import UnacceptableValue

#: So many of these characters bound the values of a body: each takes some 100 bytes of memory once it is read.
_SEPARATORS = (b",", b"[", b"{")
_MAX_SEPARATORS = 500_000

#: Levels of a body around parameters and other values that are kept: `{"executions": [{"parameters": …}]}` has three.
_MAX_WRAPPER_LEVELS = 8

#: So much of a body (bytes) is looked through at a time.
_CHUNK_BYTES = 1024 * 1024

#: What JavaScript and Python write where JSON has nothing.
_NON_JSON_NUMBER = re.compile(rb"[:,\[]\s*-?(?:NaN|Infinity)\b")

#: Fewer digits fit into 64 bits, and need no second look.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def read(request: Request, required: bool) -> Any:
    """The body of a request, `{}` if there may be none; raises `MalformedBody` or `UnsupportedMediaType`."""
    raw = _read_all(request)
    if not raw:
        if not required:
            return {}
        raise MalformedBody("this request needs a JSON body")
    if not request.is_json:
        raise UnsupportedMediaType(f"send Content-Type: application/json, not {request.mimetype or 'nothing'}")
    return parse(raw)


def read_file(request: Request, *media_types: str) -> bytes:
    """Return the body of a request that must be of one of these types; raises `UnsupportedMediaType`."""
    if request.mimetype not in media_types:
        expected = " or ".join(media_types)
        raise UnsupportedMediaType(f"send Content-Type: {expected}, not {request.mimetype or 'nothing'}")
    return _read_all(request)


def parse(raw: bytes) -> Any:
    """The value that `raw` says, if every part of it can be kept as it is."""
    if _has_too_many_values(raw):
        raise MalformedBody(f"the body has more than {_MAX_SEPARATORS:,} of the characters , [ and {{; split it")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # NaN and Infinity, numbers that are infinite, bytes that are no UTF-8 and half surrogates end here too.
        hint = "; JSON has no NaN and no Infinity" if _NON_JSON_NUMBER.search(raw) else ""
        raise MalformedBody(f"the body is not valid JSON: {error}{hint}") from None
    try:
        json_values.check(value, wrapper_levels=_MAX_WRAPPER_LEVELS)
        if _may_lose_data(raw, value):
            json_values.parse(raw, wrapper_levels=_MAX_WRAPPER_LEVELS)
    except UnacceptableValue as error:
        _raise_malformed(error)
    return value


def _has_too_many_values(raw: bytes) -> bool:
    """Return whether a body has too many separators. Counted part by part, because other threads wait meanwhile."""
    if len(raw) <= _MAX_SEPARATORS:
        return False
    count = 0
    for start in range(0, len(raw), _CHUNK_BYTES):
        count += sum(map(raw[start : start + _CHUNK_BYTES].count, _SEPARATORS))
        if count > _MAX_SEPARATORS:
            return True
    return False


def _may_lose_data(raw: bytes, value: Any) -> bool:
    """Whether `raw` may hold what orjson drops without a word: a key that is repeated, digits beyond 64 bits.

    Each key has one colon, so a colon is missing in `value` for each that was dropped, unless others were escaped.
    """
    colons = raw.count(b":") - orjson.dumps(value).count(b":")
    return bool(colons or b"\\u003" in raw or _LONG_NUMBER.search(raw))


def _raise_malformed(error: UnacceptableValue) -> NoReturn:
    message = f"the body holds {error}"
    raise MalformedBody(message, [FieldError(error.pointer, "not_kept", message)])


def _read_all(request: Request) -> bytes:
    raw = request.get_data(cache=True)
    # A body that came in chunks is silently cut at the limit; one that announced its length was refused before.
    if request.content_length is None and len(raw) >= (request.max_content_length or len(raw) + 1):
        raise RequestEntityTooLarge
    return raw
