"""Waits of arbitrary retry policies: ordered, bounded and growing by their strategy."""

import datetime as dt
import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobworker.domain.jobs import retry
from jobworker.domain.jobs.retry import RetryPolicy, RetryStrategy

NOON = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)

seconds = st.floats(0, retry.MAX_DELAY_SECONDS)
retries = st.integers(1, retry.MAX_ATTEMPTS)


@st.composite
def policies(draw: st.DrawFn, strategies: tuple[RetryStrategy, ...] = tuple(RetryStrategy)) -> RetryPolicy:
    """Draw any policy that JSON can describe."""
    described: dict[str, Any] = {"strategy": draw(st.sampled_from(strategies)).value}
    if described["strategy"] == "none":
        described["delays"] = draw(st.lists(seconds, min_size=1, max_size=5))
    described["delay"], described["max_delay"] = draw(seconds), draw(seconds)
    described["jitter"] = draw(st.sampled_from(["up", "down", "both"]))
    return retry.parse(described)


@given(policies(), retries, st.floats(0, 1))
def test_wait_lies_between_its_bounds(policy: RetryPolicy, number: int, chance: float) -> None:
    low, high = policy.compute_wait_bounds(number)
    assert 0 <= low <= high
    assert low <= policy.compute_wait(number, chance) <= high or low == high


@given(policies(), retries)
def test_wait_never_exceeds_max_delay(policy: RetryPolicy, number: int) -> None:
    longest = max(policy.delays) if policy.delays else policy.max_delay
    assert policy.compute_wait_bounds(number)[1] <= longest


@given(policies(tuple(strategy for strategy in RetryStrategy if strategy is not RetryStrategy.NONE)), retries)
def test_waits_of_strategy_never_shrink(policy: RetryPolicy, number: int) -> None:
    earlier, later = policy.compute_wait_bounds(number), policy.compute_wait_bounds(number + 1)
    assert earlier[0] <= later[0]
    assert earlier[1] <= later[1]


@given(policies())
def test_policy_json_round_trip(policy: RetryPolicy) -> None:
    assert retry.parse(policy.to_json()) == policy


@given(policies(), st.integers(1, 30))
def test_planned_attempts_accumulate_waits(policy: RetryPolicy, attempts: int) -> None:
    planned = retry.plan_attempts(policy, NOON, attempts)
    assert [attempt.attempt for attempt in planned] == list(range(1, attempts + 1))
    for before, after in itertools.pairwise(planned):
        for bound in (0, 1):
            assert after.due[bound] == before.due[bound] + dt.timedelta(seconds=after.wait[bound])


@given(policies(), st.integers(0, 20), st.none() | st.integers(0, 20), st.floats(0, 1))
def test_next_wait_exists_while_retries_are_left(
    policy: RetryPolicy, used: int, limit: int | None, chance: float
) -> None:
    wait = policy.compute_next_wait(["ValueError"], used, limit, chance)
    assert (wait is None) == (limit is not None and used >= limit)
