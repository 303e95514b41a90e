"""Durations in seconds or ISO 8601, without years and months because their lengths vary."""

import math
import re

_ISO = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+(?:\.\d+)?)S)?)?\Z",
    re.ASCII,
)
_SECONDS_PER_UNIT = {"weeks": 7 * 86400, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}

#: Maximum length of a duration as text (characters). The bound also limits the work of parsing the digits.
_MAX_LENGTH = 40


def parse(value: object) -> float:
    """Return a duration in seconds. Raises `ValueError` with the accepted formats."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and len(value) <= _MAX_LENGTH and (match := _ISO.match(value)):
        parts = {name: float(text) for name, text in match.groupdict().items() if text}
        if parts:
            return sum(_SECONDS_PER_UNIT[name] * amount for name, amount in parts.items())
    raise ValueError("must be a number of seconds or an ISO 8601 duration such as PT1H30M")
