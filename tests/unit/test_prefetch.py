"""How much a worker fetches at once, and from which queue."""

import collections

import pytest

from jobworker.domain.errors import ConfigurationError
from jobworker.transport.broker.prefetch import MAX_PREFETCH, STRICT, PrefetchEstimator, QueueWeights, parse_weights

WEIGHTS = "critical=6 default=3 background=1"
QUEUES = ["critical", "default", "background"]


def test_nothing_is_fetched_ahead_of_jobs_that_take_long() -> None:
    appetite = PrefetchEstimator()
    for second in range(10):
        appetite.record_ended()
        assert appetite.estimate_prefetch(float(second)) == 0


def test_a_batch_is_fetched_ahead_of_jobs_that_are_over_in_no_time() -> None:
    appetite = PrefetchEstimator()
    appetite.estimate_prefetch(0.0)
    appetite.record_ended(200)
    assert appetite.estimate_prefetch(0.2) == 50
    assert appetite.estimate_starts(0.2, seconds=0.02) == 30
    appetite.record_ended(100_000)
    assert appetite.estimate_prefetch(0.4) == MAX_PREFETCH


def test_what_did_not_start_in_time_ends_fetching_ahead() -> None:
    appetite = PrefetchEstimator()
    appetite.estimate_prefetch(0.0)
    appetite.record_ended(200)
    assert appetite.estimate_prefetch(0.2)
    appetite.reset()
    assert appetite.estimate_prefetch(0.2) == 0


def test_shares_follow_the_weights() -> None:
    assert dict(QueueWeights(WEIGHTS).allocate(10, QUEUES)) == {"critical": 6, "default": 3, "background": 1}


def test_one_message_at_a_time_is_shared_evenly_too() -> None:
    shares = QueueWeights(WEIGHTS)
    got = [queue for _ in range(20) for queue, count in shares.allocate(1, QUEUES) if count]
    assert collections.Counter(got) == {"critical": 12, "default": 6, "background": 2}
    assert set(got[:10]) == set(QUEUES)


def test_strict_offers_everything_to_each_in_the_order_given() -> None:
    queues = ["background", "critical"]
    assert QueueWeights(STRICT).allocate(7, queues) == [("background", 7), ("critical", 7)]


@pytest.mark.parametrize("text", ["critical", "critical=", "=3", "critical=0", "critical=1001", "critical=x", "a=1 b"])
def test_weights_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"should look like critical=6"):
        parse_weights(text)


def test_no_weights_are_equal_weights() -> None:
    assert parse_weights(" ") == {}
    assert dict(QueueWeights("").allocate(9, QUEUES)) == dict.fromkeys(QUEUES, 3)
