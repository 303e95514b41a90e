"""The thread that notifies the relay goes on whatever one notification meets."""

import redis

from jobworker.transport.notifier import Notifier
from tests.polling import until


def test_the_notifier_survives_an_error_that_nothing_foresaw() -> None:
    calls: list[int] = []

    def revoke(_client: redis.Redis) -> None:
        calls.append(len(calls))
        raise ValueError("not a state of an attempt")

    # There is no Redis at this address; what fails here fails before it is asked.
    waker = Notifier("redis://127.0.0.1:1/0", revoke)
    for count in (1, 2, 3):
        waker.notify_soon(cancelled=True)
        until(lambda count=count: len(calls) == count, within=10)  # type: ignore[misc]
