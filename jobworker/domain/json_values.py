"""The one rule for JSON values that are kept: parameters, results, metadata, and whatever comes over HTTP.

Python's `json`, orjson, kombu, SQLite and PostgreSQL each accept other values. What passes `check` is accepted by all
of them and read back equal. It is applied wherever a value enters:

- null, booleans, text, integers of 64 bits (signed or unsigned), finite numbers, arrays and objects;
- no NUL and no lone surrogates in text: PostgreSQL's jsonb refuses them, and so do strict writers of UTF-8;
- at most `MAX_DEPTH` levels of arrays and objects: orjson writes no more than 254;
- keys of objects are text. Keys that Python's `json` writes as text (numbers, booleans, None) count as that text;
- no key twice in one object;
- no object with exactly the keys `__type__` and `__value__`: kombu's decoder makes Python objects of those.

Text that a job merely says (log lines, progress, error messages) is not refused: `read` mends it.
"""

import json
import math
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from jobworker.domain.errors import pointer

#: Levels of arrays and objects within each other. Wrappers (an event, a page of executions) add a few.
MAX_DEPTH = 100

#: 64 bits, with or without a sign: what orjson writes and reads exactly.
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1

#: Digits that surely fit into 64 bits, sign included; and digits that surely do not.
_SURE_DIGITS, _TOO_MANY_DIGITS = 18, 21

#: Longest place that a message shows (characters).
_LONGEST_PLACE = 200

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_CONTAINERS = (dict, list, tuple)

_TOO_DEEP = f"nesting of more than {MAX_DEPTH} levels; make it flatter"
_TAGGED = (
    "an object with exactly the keys __type__ and __value__, of which Celery's decoder makes a Python object; "
    "name its keys otherwise"
)


class Unacceptable(ValueError):
    """A value is not acceptable: `why`, and where; `pointer` is an RFC 6901 pointer into it."""

    def __init__(self, pointer: str, why: str) -> None:
        shown = pointer if len(pointer) <= _LONGEST_PLACE else f"{pointer[:_LONGEST_PLACE]}…"
        super().__init__(f"{why} (at {shown})" if pointer else why)
        self.pointer = pointer
        self.reason = why


class _Repeating(dict[str, Any]):
    """An object in whose text a key is repeated."""

    repeated_key: str


def check(value: Any, tagged: bool = False, wrappers: int = 0) -> None:
    """Raise `Unacceptable` for the first thing in a value, however deep, that is not acceptable.

    `tagged`: objects of `__type__` and `__value__` pass; kombu has written them for a call from Python. `wrappers`:
    levels around the values that are kept, which are checked by themselves as well.
    """
    if not _is_plain(value, MAX_DEPTH + wrappers):
        _check_each(value, tagged, MAX_DEPTH + wrappers)


def parse(text: str | bytes, tagged: bool = False, wrappers: int = 0) -> Any:
    """Parse JSON; raises `Unacceptable`, or another `ValueError` if it is no JSON. The rest as in `check`."""
    try:
        value = json.loads(text, parse_int=_exact, parse_constant=_refuse, object_pairs_hook=_object)
    except RecursionError:
        raise Unacceptable("", _TOO_DEEP) from None
    check(value, tagged, wrappers)
    return value


def read(text: str) -> Any:
    """Parse JSON, mending text and integers that cannot be kept. Raises `ValueError`."""
    try:
        value = json.loads(text, parse_int=_bounded, parse_constant=_refuse)
        # Only escapes can bring NUL and surrogates in; most texts have neither.
        return _mend(value) if "\\u0000" in text or "\\ud" in text.lower() else value
    except RecursionError:
        raise Unacceptable("", _TOO_DEEP) from None


def _is_plain(value: Any, deepest: int) -> bool:
    """Whether a value is acceptable and nothing in it needs a closer look: fast, for nearly every value."""
    level = [value]
    for _ in range(deepest):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                if _why_not_object(item, tagged=False):
                    return False
                below.extend(item.values())
            elif kind is list:
                below.extend(item)
            elif _why_not_scalar(item):
                return False
        if not below:
            return True
        level = below
    return False


def _check_each(value: Any, tagged: bool, deepest: int) -> None:
    # Depth first, to know the place, with a stack of our own: no nesting may exhaust Python's.
    place: list[str | int] = []
    levels: list[Iterator[tuple[Any, Any]]] = [iter([("", value)])]
    while levels:
        for name, item in levels[-1]:
            inner = isinstance(item, _CONTAINERS)
            if inner and len(levels) > deepest:
                why: str | None = _TOO_DEEP
            elif inner:
                why = _why_not_object(item, tagged) if isinstance(item, dict) else None
            else:
                why = _why_not_scalar(item)
            if why is not None:
                raise Unacceptable(pointer(*place[1:], name) if place else "", why)
            if inner:
                place.append(name)
                levels.append(iter(item.items()) if isinstance(item, dict) else enumerate(item))
                break
        else:
            levels.pop()
            if place:
                place.pop()


def mended(text: str) -> str:
    """Text that can be kept: without NUL and lone surrogates."""
    return text.replace("\x00", _REPLACEMENT).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _why_not_object(item: dict[Any, Any], tagged: bool) -> str | None:
    if len(item) == 2 and "__type__" in item and "__value__" in item and not tagged:
        return _TAGGED
    if isinstance(item, _Repeating):
        return f"the key {json.dumps(item.repeated_key[:_LONGEST_PLACE])} twice in one object; keep one"
    try:
        names = "".join(item)
    except TypeError:
        return _why_not_keys(item)
    return (why := _why_not_text(names)) and f"a key that is {why}"


def _why_not_keys(names: Collection[Any]) -> str | None:
    """What is wrong with keys of which some are no text."""
    for name in names:
        if not (name is None or isinstance(name, str | int | float)):
            return f"a key of the type {type(name).__name__}; make it text"
    written = [name if isinstance(name, str) else json.dumps(name) for name in names]
    if len(set(written)) < len(written):
        return "two keys that are the same as text; make them differ"
    return (why := _why_not_text("".join(written))) and f"a key that is {why}"


def _why_not_scalar(item: Any) -> str | None:
    if isinstance(item, str):
        return _why_not_text(item)
    if item is None or isinstance(item, bool):
        return None
    if isinstance(item, int):
        fits = _SMALLEST <= item <= _LARGEST
        return None if fits else "an integer that does not fit into 64 bits; write it as text"
    if isinstance(item, float):
        return None if math.isfinite(item) else f"{item}, which is no finite number; write null or text"
    return f"a value of the type {type(item).__name__}, which is not JSON; make it text, a number, a list or a dict"


def _why_not_text(text: str) -> str | None:
    if "\0" in text:
        return "text with the character NUL (\\u0000); leave it out"
    if not text.isascii() and mended(text) != text:
        return "text with half a surrogate pair (\\ud800 to \\udfff); write whole characters"
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    repeating, seen = _Repeating(made), set()
    for name, _ in pairs:
        if name in seen:
            repeating.repeated_key = name
            break
        seen.add(name)
    return repeating


def _exact(digits: str) -> int:
    # Turning a million digits into a number takes for ever; that many are too many in any case.
    return int(digits[:_TOO_MANY_DIGITS])


def _bounded(digits: str) -> int | str:
    if len(digits) <= _SURE_DIGITS:
        return int(digits)
    if len(digits) > _SURE_DIGITS + 2:
        return digits
    number = int(digits)
    return number if _SMALLEST <= number <= _LARGEST else digits


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {mended(name): _mend(item) for name, item in value.items()}
    return value
