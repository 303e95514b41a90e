"""What makes sense as progress."""

import decimal
import fractions
from typing import Any

import pytest

from jobworker.domain.executions import progress


class Number:
    """A number of some library."""

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
        (Number(), 2.5),
    ],
)
def test_any_number_will_do(done: Any, kept: float) -> None:
    assert progress.normalize(done, done, "so far") == {"done": kept, "total": kept, "message": "so far"}


def test_total_and_message_may_be_left_out() -> None:
    assert progress.normalize(7) == {"done": 7, "total": None, "message": None}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, -0.5, "7", True, [], 10**400])
def test_what_is_no_measure_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="done "):
        progress.normalize(value)
    with pytest.raises(ValueError, match="total "):
        progress.normalize(1, value)


def test_a_message_is_text_and_not_endless() -> None:
    assert progress.normalize(1, None, 42)["message"] == "42"
    assert len(progress.normalize(1, None, "x" * 5000)["message"]) == 1001
