"""Durations as numbers of seconds and in ISO 8601 form."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobworker.domain import durations


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        (0, 0),
        (5, 5),
        (1.5, 1.5),
        (-3, -3),
        ("PT0S", 0),
        ("PT1.5S", 1.5),
        ("PT90M", 5400),
        ("PT1H30M", 5400),
        ("P1D", 86400),
        ("P2W", 1209600),
        ("P1W2DT3H4M5S", 788645),
    ],
)
def test_duration_parsed_to_seconds(given_: Any, seconds: float) -> None:
    assert durations.parse(given_) == seconds


@pytest.mark.parametrize(
    "given_",
    [None, True, [], {}, "", "5", "P", "PT", "P1Y", "P1M", "P1DT", "-PT1S", "pt1s", "PT1S ", "PT1,5S", "PT٣S",
     "PT" + "1" * 99 + "S", math.nan, math.inf],
)  # fmt: skip
def test_invalid_duration_rejected(given_: Any) -> None:
    with pytest.raises(ValueError, match="PT1H30M"):
        durations.parse(given_)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_duration_parts_add_up(days: int, minutes: int, seconds: int) -> None:
    assert durations.parse(f"P{days}DT{minutes}M{seconds}S") == days * 86400 + minutes * 60 + seconds
