"""Durations as people write them: seconds, or ISO 8601 without years and months (nobody knows how long those are)."""

import math
import re

_ISO = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?\Z",
    re.ASCII,
)
_SECONDS = {"weeks": 7 * 86400, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}

#: Longer texts are no durations; this also bounds the work of reading the digits.
_LONGEST = 40


def parse(given: object) -> float:
    """Seconds; raises `ValueError` that says what is expected."""
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        return float(given)
    if isinstance(given, str) and len(given) <= _LONGEST and (found := _ISO.match(given)):
        parts = {name: float(text) for name, text in found.groupdict().items() if text}
        if parts:
            return sum(_SECONDS[name] * amount for name, amount in parts.items())
    raise ValueError("must be a number of seconds or an ISO 8601 duration such as PT1H30M")
