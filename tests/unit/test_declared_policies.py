"""What is wrong with a job's options is said when its module is imported, with the place."""

from typing import Any

import pytest

from jobworker import job
from jobworker.domain.errors import Misconfigured


def work() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retry": {"strategy": "quadratic"}}, "/retry/strategy: strategy must be one of none, fixed"),
        ({"retry": {"strategy": "fixed", "delay": -1}}, "/retry/delay: delay must be 0 to"),
        ({"retry": {"strategy": "fixed", "tries": 3}}, "/retry/tries: tries is not known here"),
        ({"retry": [1, 2]}, "/retry: retry must be a JSON object"),
        ({"priority": 10}, "priority 10 must be a number from 0 to 9"),
    ],
)
def test_it_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(Misconfigured, match="@job refused-work") as refused:
        job(work, name="refused-work", **options)
    assert told in str(refused.value)


def test_a_policy_is_kept_as_it_is_normalised() -> None:
    made = job(work, name="kept-work", retry={"strategy": "linear", "delay": "PT10S"})
    assert list(made.job_options.policies) == ["retry"]
    assert made.job_options.policies["retry"]["delay"] == 10


def test_celerys_own_rate_limit_is_left_to_celery() -> None:
    rarely = job(work, name="rare-work", rate_limit="10/m")
    limited = job(work, name="limited-work", rate_limit={"limit": 10, "per": 60})
    assert (rarely.rate_limit, "rate_limit" in rarely.job_options.policies) == ("10/m", False)
    assert (limited.rate_limit, limited.job_options.policies["rate_limit"]["limit"]) == (None, 10)
