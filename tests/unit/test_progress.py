"""Validation of reported progress."""

import decimal
import fractions
from typing import Any

import pytest

from jobworker.domain.executions import progress


class FloatLikeValue:
    """A number type of a library."""

    def __float__(self) -> float:
        return 2.5


@pytest.mark.parametrize(
    ("done", "kept"),
    [
        (0, 0),
        (3, 3),
        (0.5, 0.5),
        (2**70, float(2**70)),
        (decimal.Decimal("1.5"), 1.5),
        (fractions.Fraction(1, 4), 0.25),
        (FloatLikeValue(), 2.5),
    ],
)
def test_progress_accepts_any_number_type(done: Any, kept: float) -> None:
    assert progress.normalize(done, done, "so far") == {"done": kept, "total": kept, "message": "so far"}


def test_progress_total_and_message_optional() -> None:
    assert progress.normalize(7) == {"done": 7, "total": None, "message": None}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, -0.5, "7", True, [], 10**400])
def test_invalid_progress_value_rejected(value: Any) -> None:
    with pytest.raises(ValueError, match="done "):
        progress.normalize(value)
    with pytest.raises(ValueError, match="total "):
        progress.normalize(1, value)


def test_progress_message_converted_and_cut() -> None:
    assert progress.normalize(1, None, 42)["message"] == "42"
    assert len(progress.normalize(1, None, "x" * 5000)["message"]) == 1001
