"""What it costs the publisher to send one message; nobody takes them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.table import Figure, ratio_at_most
from bench.transport.bench import Bench

_OURS = 20_000
_STOCK = 3_000


def publish(bench: Bench) -> list[Figure]:
    """CPU of this process, from parameters to sent; ours in the relay's batches, stock one by one."""
    with bench.make_jobworker() as ours:
        mine = _cpu(lambda count: ours.publish("noop", _numbered(count)), _OURS)
    with bench.make_celery() as stock:
        theirs = _cpu(lambda count: stock.publish("noop", _numbered(count)), _STOCK)
    return [Figure("publish, publisher's CPU", "µs/message", mine, {"": theirs}, ratio_at_most(0.1))]


def _cpu(send: Callable[[int], object], count: int) -> float:
    send(100)  # Connects, and renders what is rendered once.
    began = time.process_time()
    send(count)
    return (time.process_time() - began) / count * 1e6


def _numbered(count: int) -> Iterator[dict[str, Any]]:
    return ({"number": number} for number in range(count))
