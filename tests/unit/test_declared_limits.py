"""Time limits given to `@job` are validated at the declaration."""

import logging
from pathlib import Path
from typing import Any

import pytest

from jobworker import Context, JobCancelled, job
from jobworker.domain.errors import ConfigurationError
from jobworker.files.local import LocalFiles


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"time_limit": 0}, "/time_limit: time_limit must be more than 0"),
        ({"soft_time_limit": -1}, "/soft_time_limit: soft_time_limit must be more than 0"),
        ({"time_limit": 10, "soft_time_limit": 10}, "/soft_time_limit: soft_time_limit must be shorter"),
        ({"time_limit": float("inf")}, "/time_limit: time_limit must be more than 0 and at most 30 days"),
    ],
)
def test_invalid_time_limits_rejected(limits: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=f"@job never: {complaint}"):
        job(_nothing, name="never", **limits)


def _nothing() -> None:
    """Do nothing; never becomes a job."""


def test_context_outside_worker_has_no_cancellation_or_limit(tmp_path: Path) -> None:
    context = Context(
        execution_id="e",
        job="j",
        attempt=1,
        max_attempts=None,
        parameters={},
        scheduled_for=None,
        correlation_id="c",
        worker="w",
        log=logging.getLogger("test"),
        files=LocalFiles(tmp_path, "e"),
        _progress=lambda *_: None,
    )
    context.raise_if_cancelled()
    context.extend(5)
    assert not context.cancelled


def test_job_cancelled_is_not_an_exception_subclass() -> None:
    assert not issubclass(JobCancelled, Exception)
