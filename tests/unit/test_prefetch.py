"""The number of messages that a worker fetches at once, and the queues that it fetches from."""

import collections

import pytest

from jobworker.domain.errors import ConfigurationError
from jobworker.transport.broker.prefetch import MAX_PREFETCH, STRICT, PrefetchEstimator, QueueWeights, parse_weights

WEIGHTS = "critical=6 default=3 background=1"
QUEUES = ["critical", "default", "background"]


def test_no_prefetch_for_slow_jobs() -> None:
    estimator = PrefetchEstimator()
    for second in range(10):
        estimator.record_ended()
        assert estimator.estimate_prefetch(float(second)) == 0


def test_fast_jobs_prefetched_in_batches() -> None:
    estimator = PrefetchEstimator()
    estimator.estimate_prefetch(0.0)
    estimator.record_ended(200)
    assert estimator.estimate_prefetch(0.2) == 50
    assert estimator.estimate_starts(0.2, seconds=0.02) == 30
    estimator.record_ended(100_000)
    assert estimator.estimate_prefetch(0.4) == MAX_PREFETCH


def test_reset_ends_prefetch() -> None:
    estimator = PrefetchEstimator()
    estimator.estimate_prefetch(0.0)
    estimator.record_ended(200)
    assert estimator.estimate_prefetch(0.2)
    estimator.reset()
    assert estimator.estimate_prefetch(0.2) == 0


def test_queue_shares_follow_weights() -> None:
    assert dict(QueueWeights(WEIGHTS).allocate(10, QUEUES)) == {"critical": 6, "default": 3, "background": 1}


def test_single_message_fetches_follow_weights() -> None:
    shares = QueueWeights(WEIGHTS)
    got = [queue for _ in range(20) for queue, count in shares.allocate(1, QUEUES) if count]
    assert collections.Counter(got) == {"critical": 12, "default": 6, "background": 2}
    assert set(got[:10]) == set(QUEUES)


def test_strict_order_offers_all_to_each_queue() -> None:
    queues = ["background", "critical"]
    assert QueueWeights(STRICT).allocate(7, queues) == [("background", 7), ("critical", 7)]


@pytest.mark.parametrize("text", ["critical", "critical=", "=3", "critical=0", "critical=1001", "critical=x", "a=1 b"])
def test_invalid_queue_weights_rejected(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"should look like critical=6"):
        parse_weights(text)


def test_missing_weights_mean_equal_shares() -> None:
    assert parse_weights(" ") == {}
    assert dict(QueueWeights("").allocate(9, QUEUES)) == dict.fromkeys(QUEUES, 3)
