"""Number and queues of prefetched messages for arbitrary loads and weights."""

import collections

from hypothesis import given
from hypothesis import strategies as st

from jobworker.transport.broker.prefetch import MAX_PREFETCH, PrefetchEstimator, QueueWeights


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1000)), max_size=50))
def test_prefetch_estimate_within_bounds(steps: list[tuple[float, int]]) -> None:
    estimator, now = PrefetchEstimator(), 0.0
    for passed, ended in steps:
        now += passed
        estimator.record_ended(ended)
        assert 0 <= estimator.estimate_starts(now, seconds=0.02) <= estimator.estimate_prefetch(now) <= MAX_PREFETCH


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 1000), min_size=1),
    st.lists(st.integers(0, MAX_PREFETCH), min_size=1, max_size=30),
)
def test_queue_shares_follow_weights_without_starvation(weights: dict[str, int], counts: list[int]) -> None:
    queues = [*weights, "other"]  # The weight of `other` is 1.
    shares = QueueWeights(" ".join(f"{queue}={weight}" for queue, weight in weights.items()))
    got: collections.Counter[str] = collections.Counter()
    for count in counts:
        offered = shares.allocate(count, queues)
        assert {queue for queue, _ in offered} == set(queues)
        assert sum(share for _, share in offered) == count
        got.update(dict(offered))
    total = sum(weights.values()) + 1
    for queue in queues:
        due = sum(counts) * weights.get(queue, 1) / total
        assert abs(got[queue] - due) <= len(queues)
