"""Exceptions by which a job controls its retry: Retry, Snooze, Abort."""

import datetime as dt
import pickle
from typing import Any

import pytest

from jobworker import Abort, Retry, Snooze


@pytest.mark.parametrize(
    ("delay", "seconds"), [(5, 5.0), (0.5, 0.5), (0, 0.0), (dt.timedelta(minutes=2), 120.0), (None, None)]
)
def test_retry_delay_accepts_seconds_and_timedelta(delay: Any, seconds: float | None) -> None:
    assert Retry(delay).delay == Retry(delay).when == seconds


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "5", True, dt.timedelta(days=-1), 1e12])
def test_invalid_snooze_delay_rejected(delay: Any) -> None:
    with pytest.raises(ValueError, match="delay must be"):
        Snooze(delay)


@pytest.mark.parametrize("said", [Retry(5, "busy"), Retry(), Snooze(dt.timedelta(hours=1), "closed"), Abort("gone")])
def test_control_exceptions_pickle_round_trip(said: Any) -> None:
    copy = pickle.loads(pickle.dumps(said))
    assert type(copy) is type(said)
    assert vars(copy).keys() == vars(said).keys()
    assert (copy.reason, getattr(copy, "delay", None)) == (said.reason, getattr(said, "delay", None))


def test_exception_reason_converted_to_text() -> None:
    assert (Abort(404).reason, Retry(reason=404).reason) == ("404", "404")  # type: ignore[arg-type]
