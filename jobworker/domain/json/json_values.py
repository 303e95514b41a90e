"""Rules for JSON values that are stored: parameters, results, metadata, and all JSON that comes over HTTP.

Python's `json`, orjson, kombu, SQLite and PostgreSQL each accept other values. A value that passes `check` is accepted
by all of them and read back equal. The check is applied wherever a value enters:

- null, booleans, text, integers of 64 bits (signed or unsigned), finite numbers, arrays and objects;
- no NUL and no lone surrogates in text: PostgreSQL's jsonb refuses them, and so do strict writers of UTF-8;
- at most `MAX_DEPTH` levels of arrays and objects: orjson writes no more than 254;
- keys of objects are text. Keys that Python's `json` writes as text (numbers, booleans, None) count as that text;
- no key twice in one object;
- no object with exactly the keys `__type__` and `__value__`: kombu's decoder makes Python objects of those.

Text that jobs emit (log lines, progress, error messages) is not refused: `parse_sanitized` repairs it.
"""

import json
import math
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from jobworker.domain.errors import format_pointer

#: Maximum number of nested arrays and objects. Wrappers (an event, a page of executions) add a few levels.
MAX_DEPTH = 100

#: Bounds of integers: 64 bits, with or without a sign, which orjson writes and reads exactly.
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1

#: Number of digits that always fit into 64 bits, sign included; and number of digits that never fit.
_SAFE_DIGITS, _TOO_MANY_DIGITS = 18, 21

#: Maximum length of a pointer in an error message (characters).
_MAX_POINTER_LENGTH = 200

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_CONTAINERS = (dict, list, tuple)

_TOO_DEEP_MESSAGE = f"nesting of more than {MAX_DEPTH} levels; make it flatter"
_TAGGED_MESSAGE = (
    "an object with exactly the keys __type__ and __value__, of which Celery's decoder makes a Python object; "
    "name its keys otherwise"
)


class UnacceptableValue(ValueError):
    """A value that cannot be stored: `reason`, and its place; `pointer` is an RFC 6901 pointer into the value."""

    def __init__(self, pointer: str, reason: str) -> None:
        shown = pointer if len(pointer) <= _MAX_POINTER_LENGTH else f"{pointer[:_MAX_POINTER_LENGTH]}…"
        super().__init__(f"{reason} (at {shown})" if pointer else reason)
        self.pointer = pointer
        self.reason = reason


class _RepeatedKeyObject(dict[str, Any]):
    """An object with a repeated key."""

    repeated_key: str


def check(value: Any, allow_tagged: bool = False, wrapper_levels: int = 0) -> None:
    """Raise `UnacceptableValue` for the first part of a value, at any depth, that cannot be stored.

    `allow_tagged`: accept objects of `__type__` and `__value__`, which kombu writes for calls from Python.
    `wrapper_levels`: levels around the stored values, which are checked separately as well.
    """
    if not _is_plain(value, MAX_DEPTH + wrapper_levels):
        _check_each(value, allow_tagged, MAX_DEPTH + wrapper_levels)


def parse(text: str | bytes, allow_tagged: bool = False, wrapper_levels: int = 0) -> Any:
    """Parse JSON. Raises `UnacceptableValue`, or another `ValueError` for invalid JSON. For the options see `check`."""
    try:
        value = json.loads(
            text, parse_int=_parse_truncated_integer, parse_constant=_refuse_constant, object_pairs_hook=_build_object
        )
    except RecursionError:
        raise UnacceptableValue("", _TOO_DEEP_MESSAGE) from None
    check(value, allow_tagged, wrapper_levels)
    return value


def parse_sanitized(text: str) -> Any:
    """Parse JSON, and replace text and integers that cannot be stored. Raises `ValueError`."""
    try:
        value = json.loads(text, parse_int=_parse_bounded_integer, parse_constant=_refuse_constant)
        # Only escapes can contain NUL and surrogates; most texts have neither.
        return _sanitize(value) if "\\u0000" in text or "\\ud" in text.lower() else value
    except RecursionError:
        raise UnacceptableValue("", _TOO_DEEP_MESSAGE) from None


def _is_plain(value: Any, max_depth: int) -> bool:
    """Return whether a value is acceptable without a detailed check: fast, and true for nearly every value."""
    level = [value]
    for _ in range(max_depth):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                if _describe_object_problem(item, allow_tagged=False):
                    return False
                below.extend(item.values())
            elif kind is list:
                below.extend(item)
            elif _describe_scalar_problem(item):
                return False
        if not below:
            return True
        level = below
    return False


def _check_each(value: Any, allow_tagged: bool, max_depth: int) -> None:
    # Depth first, to record the place, with an explicit stack because deep nesting must not exhaust Python's own.
    place: list[str | int] = []
    levels: list[Iterator[tuple[Any, Any]]] = [iter([("", value)])]
    while levels:
        for name, item in levels[-1]:
            inner = isinstance(item, _CONTAINERS)
            if inner and len(levels) > max_depth:
                why: str | None = _TOO_DEEP_MESSAGE
            elif inner:
                why = _describe_object_problem(item, allow_tagged) if isinstance(item, dict) else None
            else:
                why = _describe_scalar_problem(item)
            if why is not None:
                raise UnacceptableValue(format_pointer(*place[1:], name) if place else "", why)
            if inner:
                place.append(name)
                levels.append(iter(item.items()) if isinstance(item, dict) else enumerate(item))
                break
        else:
            levels.pop()
            if place:
                place.pop()


def sanitize_text(text: str) -> str:
    """Return the text with NUL and lone surrogates replaced."""
    return text.replace("\x00", _REPLACEMENT).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _describe_object_problem(item: dict[Any, Any], allow_tagged: bool) -> str | None:
    if len(item) == 2 and "__type__" in item and "__value__" in item and not allow_tagged:
        return _TAGGED_MESSAGE
    if isinstance(item, _RepeatedKeyObject):
        return f"the key {json.dumps(item.repeated_key[:_MAX_POINTER_LENGTH])} twice in one object; keep one"
    try:
        names = "".join(item)
    except TypeError:
        return _describe_keys_problem(item)
    return (why := _describe_text_problem(names)) and f"a key that is {why}"


def _describe_keys_problem(names: Collection[Any]) -> str | None:
    """Return the problem of object keys of which some are not text."""
    for name in names:
        if not (name is None or isinstance(name, str | int | float)):
            return f"a key of the type {type(name).__name__}; make it text"
    written = [name if isinstance(name, str) else json.dumps(name) for name in names]
    if len(set(written)) < len(written):
        return "two keys that are equal as text; make them differ"
    return (why := _describe_text_problem("".join(written))) and f"a key that is {why}"


def _describe_scalar_problem(item: Any) -> str | None:
    if isinstance(item, str):
        return _describe_text_problem(item)
    if item is None or isinstance(item, bool):
        return None
    if isinstance(item, int):
        fits = _MIN_INTEGER <= item <= _MAX_INTEGER
        return None if fits else "an integer that does not fit into 64 bits; write it as text"
    if isinstance(item, float):
        return None if math.isfinite(item) else f"{item}, which is not a finite number; write null or text"
    return f"a value of the type {type(item).__name__}, which is not JSON; make it text, a number, a list or a dict"


def _describe_text_problem(text: str) -> str | None:
    if "\0" in text:
        return "text with the character NUL (\\u0000); leave it out"
    if not text.isascii() and sanitize_text(text) != text:
        return "text with half a surrogate pair (\\ud800 to \\udfff); write whole characters"
    return None


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    repeating, seen = _RepeatedKeyObject(fields), set()
    for name, _ in pairs:
        if name in seen:
            repeating.repeated_key = name
            break
        seen.add(name)
    return repeating


def _parse_truncated_integer(digits: str) -> int:
    # Converting a million digits to a number takes very long, and `_TOO_MANY_DIGITS` digits exceed 64 bits anyway.
    return int(digits[:_TOO_MANY_DIGITS])


def _parse_bounded_integer(digits: str) -> int | str:
    if len(digits) <= _SAFE_DIGITS:
        return int(digits)
    if len(digits) > _SAFE_DIGITS + 2:
        return digits
    number = int(digits)
    return number if _MIN_INTEGER <= number <= _MAX_INTEGER else digits


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _sanitize(value: Any) -> Any:
    if isinstance(value, str):
        return sanitize_text(value)
    if isinstance(value, list):
        return [_sanitize(item) for item in value]
    if isinstance(value, dict):
        return {sanitize_text(name): _sanitize(item) for name, item in value.items()}
    return value
