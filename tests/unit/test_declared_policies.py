"""Invalid job options are refused with their place when the job's module is imported."""

from typing import Any

import pytest

from jobworker import Job, job
from jobworker.domain.errors import ConfigurationError


def work() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry": {"strategy": "quadratic"}}, "/retry/strategy: strategy must be one of none, fixed"),
        ({"retry": {"strategy": "fixed", "delay": -1}}, "/retry/delay: delay must be 0 to"),
        ({"retry": {"strategy": "fixed", "tries": 3}}, "/retry/tries: tries is unknown"),
        ({"retry": [1, 2]}, "/retry: retry must be a JSON object"),
        ({"circuit": 3}, "/circuit: circuit must be a JSON object with failures, pause"),
        ({"priority": 10}, "/priority: priority must be 0 to 9"),
        ({"max_retries": 1000}, "/max_retries: max_retries must be an integer from 0 to 999, or None"),
        ({"max_retries": -1}, "/max_retries: max_retries must be an integer"),
        ({"max_retries": 2.5}, "/max_retries: max_retries must be an integer"),
        ({"max_retries": True}, "/max_retries: max_retries must be an integer"),
        ({"default_retry_delay": -1}, "/default_retry_delay: default_retry_delay must be a number of seconds"),
        ({"default_retry_delay": "5"}, "/default_retry_delay: default_retry_delay must be a number of seconds"),
        ({"retry_backoff_max": None}, "/retry_backoff_max: retry_backoff_max must be a number of seconds"),
        ({"retry_backoff_max": float("inf")}, "/retry_backoff_max: retry_backoff_max must be a number of seconds"),
        ({"retry_backoff": -1}, "/retry_backoff: retry_backoff must be True, False or a number of seconds"),
        ({"retry_backoff": "1"}, "/retry_backoff: retry_backoff must be True, False or a number of seconds"),
        ({"time_limit": "60"}, "/time_limit: time_limit must be a number of seconds"),
        ({"soft_time_limit": True}, "/soft_time_limit: soft_time_limit must be a number of seconds"),
    ],
)
def test_invalid_policy_option_rejected_with_pointer(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match="@job refused-work") as refused:
        job(work, name="refused-work", **options)
    assert message in str(refused.value)


def test_policy_stored_in_normalized_form() -> None:
    task = job(work, name="kept-work", retry={"strategy": "linear", "delay": "PT10S"})
    assert list(task.job_options.policies) == ["retry"]
    assert task.job_options.policies["retry"]["delay"] == 10


def test_celery_rate_limit_not_stored_as_policy() -> None:
    rarely = job(work, name="rare-work", rate_limit="10/m")
    limited = job(work, name="limited-work", rate_limit={"limit": 10, "per": 60})
    assert (rarely.rate_limit, "rate_limit" in rarely.job_options.policies) == ("10/m", False)
    assert (limited.rate_limit, limited.job_options.policies["rate_limit"]["limit"]) == (None, 10)


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": None, "retry_backoff": True},
        {"max_retries": 0, "retry_backoff": 0.1, "retry_backoff_max": 0, "default_retry_delay": 0.5},
        {"max_retries": 999, "retry_backoff": False, "time_limit": None, "soft_time_limit": 1.5},
        {"typing": True},
    ],
)
def test_celery_options_kept_unchanged(options: dict[str, Any]) -> None:
    task = job(work, name=f"kept-{'-'.join(options)}", **options)
    assert {name: getattr(task, name) for name in options} == options


def test_coroutine_rejected_as_job() -> None:
    async def wait() -> None:
        """Never run."""

    with pytest.raises(ConfigurationError, match=r"@job waits: .*`def` that runs its coroutine with asyncio.run\(\)"):
        job(wait, name="waits")
    with pytest.raises(ConfigurationError, match="@job Waits: workers call plain functions"):
        type("Waits", (Job,), {"run": wait})
