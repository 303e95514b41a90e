"""The notifier's thread survives errors of single notifications."""

import redis

from jobworker.transport.notifier import Notifier
from tests.polling import until


def test_notifier_survives_unexpected_error() -> None:
    calls: list[int] = []

    def revoke(_client: redis.Redis) -> None:
        calls.append(len(calls))
        raise ValueError("not a state of an attempt")

    # There is no Redis at this address; `revoke` fails before a command is sent.
    notifier = Notifier("redis://127.0.0.1:1/0", revoke)
    for count in (1, 2, 3):
        notifier.notify_soon(cancelled=True)
        until(lambda count=count: len(calls) == count, within=10)  # type: ignore[misc]
