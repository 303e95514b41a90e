"""Progress of a job: two numbers and a message."""

import math
from typing import Any

#: Maximum length of a message (characters).
_MAX_MESSAGE_LENGTH = 1_000


def normalize(done: Any, total: Any = None, message: Any = None) -> dict[str, Any]:
    """Return the stored form of a call to `context.progress`. Raises `ValueError` with the problem."""
    return {
        "done": _check_number("done", done),
        "total": None if total is None else _check_number("total", total),
        "message": None if message is None else _truncate_message(message),
    }


def _check_number(name: str, value: Any) -> int | float:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        number: int | float = value
    else:
        number = _to_float(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number, not negative; it is {value!r:.100}")
    return number


def _to_float(name: str, value: Any) -> float:
    # Number types of all libraries have `__float__`; text does not.
    if isinstance(value, bool) or not hasattr(type(value), "__float__"):
        raise ValueError(f"{name} must be a number; it is a {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large a number") from None


def _truncate_message(message: Any) -> str:
    text = str(message)
    return text if len(text) <= _MAX_MESSAGE_LENGTH else f"{text[:_MAX_MESSAGE_LENGTH]}…"
