"""Benchmark of the publisher's cost of one message, without consumers."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.report import Measurement, expect_ratio_at_most
from bench.transport.context import TransportContext

_JOBWORKER_MESSAGES = 20_000
_CELERY_MESSAGES = 3_000


def measure_publish(bench: TransportContext) -> list[Measurement]:
    """Measure the CPU of this process from parameters to sent: JobWorker in the relay's batches, stock one by one."""
    with bench.make_jobworker() as ours:
        mine = _measure_cpu_per_message(
            lambda count: ours.publish("noop", _make_parameters(count)), _JOBWORKER_MESSAGES
        )
    with bench.make_celery() as stock:
        theirs = _measure_cpu_per_message(
            lambda count: stock.publish("noop", _make_parameters(count)), _CELERY_MESSAGES
        )
    return [Measurement("publish, publisher's CPU", "µs/message", mine, {"": theirs}, expect_ratio_at_most(0.1))]


def _measure_cpu_per_message(send: Callable[[int], object], count: int) -> float:
    send(100)  # Connects and fills the publisher's caches.
    started_at = time.process_time()
    send(count)
    return (time.process_time() - started_at) / count * 1e6


def _make_parameters(count: int) -> Iterator[dict[str, Any]]:
    return ({"number": number} for number in range(count))
