"""Which JSON can be kept everywhere: no NUL and no half characters in text, no integer beyond 64 bits.

PostgreSQL's jsonb refuses the first two, and so does every strict writer of UTF-8; the third is not
exact in most readers of JSON. What a job returns has to keep to it; what it merely says is mended.
"""

import json
from typing import Any, NoReturn

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
#: 64 bits, with or without a sign: what orjson writes and reads exactly.
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1

#: Digits that surely fit into 64 bits, sign included.
_SURE_DIGITS = 18


def why_not_kept(value: Any) -> str | None:
    """What about a JSON value, however deep, cannot be kept; None if it can."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left.extend((*map(str, item), *item.values()))
        elif isinstance(item, list | tuple):
            left.extend(item)
        elif isinstance(item, str) and _mended(item) != item:
            return "text with a NUL or half a character"
        elif isinstance(item, int) and not _SMALLEST <= item <= _LARGEST:
            return f"the integer {item}, beyond 64 bits"
    return None


def read(text: str) -> Any:
    """Parse JSON, mending what cannot be kept. Raises `ValueError`."""
    value = json.loads(text, parse_int=_bounded, parse_constant=_refuse)
    # Only escapes can bring NUL and surrogates in; most texts have neither.
    return _mend(value) if "\\u0000" in text or "\\ud" in text.lower() else value


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
        return _mended(value)
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mended(name): _mend(item) for name, item in value.items()}
    return value


def _mended(text: str) -> str:
    return text.replace("\x00", _REPLACEMENT).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
