"""Strict reader of JSON bodies: values that cannot be stored, compared and returned unchanged are rejected."""

import re
from typing import Any, NoReturn

import orjson
from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from jobworker.api.problems import MalformedBody, UnsupportedMediaType
from jobworker.domain.errors import FieldError
from jobworker.domain.json import json_values
from jobworker.domain.json.json_values import UnacceptableValue

#: Separators, whose count bounds the number of values of a body: each value takes some 100 bytes of memory when read.
_SEPARATORS = (b",", b"[", b"{")
_MAX_SEPARATORS = 500_000

#: Maximum nesting levels around parameters and other stored values: `{"executions": [{"parameters": …}]}` has three.
_MAX_WRAPPER_LEVELS = 8

#: Size (bytes) of the parts in which a body is searched.
_CHUNK_BYTES = 1024 * 1024

#: Numbers that JavaScript and Python write but JSON does not have.
_NON_JSON_NUMBER = re.compile(rb"[:,\[]\s*-?(?:NaN|Infinity)\b")

#: Digits of an integer that may exceed 64 bits; shorter ones always fit.
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def read(request: Request, required: bool) -> Any:
    """Return the body of a request, or `{}` if it is optional and missing.

    Raises `MalformedBody` or `UnsupportedMediaType`.
    """
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
    """Return the value of a JSON text; raises `MalformedBody` if a part of it cannot be stored unchanged."""
    if _has_too_many_values(raw):
        raise MalformedBody(f"the body has more than {_MAX_SEPARATORS:,} of the characters , [ and {{; split it")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        # This includes NaN, Infinity, numbers that overflow to infinity, bytes that are not UTF-8, and lone surrogates.
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
    """Return whether a body has too many separators. Counts in parts because other threads wait during each."""
    if len(raw) <= _MAX_SEPARATORS:
        return False
    count = 0
    for start in range(0, len(raw), _CHUNK_BYTES):
        count += sum(map(raw[start : start + _CHUNK_BYTES].count, _SEPARATORS))
        if count > _MAX_SEPARATORS:
            return True
    return False


def _may_lose_data(raw: bytes, value: Any) -> bool:
    """Return whether `raw` may contain data that orjson drops silently: a repeated key, or digits beyond 64 bits.

    Each key has one colon, so each dropped key leaves one colon fewer in `value`, unless colons were escaped.
    """
    colons = raw.count(b":") - orjson.dumps(value).count(b":")
    return bool(colons or b"\\u003" in raw or _LONG_NUMBER.search(raw))


def _raise_malformed(error: UnacceptableValue) -> NoReturn:
    message = f"the body contains {error}"
    raise MalformedBody(message, [FieldError(error.pointer, "not_kept", message)])


def _read_all(request: Request) -> bytes:
    raw = request.get_data(cache=True)
    # A chunked body is silently cut at the limit; a body with a Content-Length was already rejected if too large.
    if request.content_length is None and len(raw) >= (request.max_content_length or len(raw) + 1):
        raise RequestEntityTooLarge
    return raw
