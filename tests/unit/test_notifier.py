"""The notifier's thread survives errors of single notifications."""

import pytest
import redis

from jobworker.transport import notifier
from jobworker.transport.notifier import Notifier
from tests.polling import wait_until


def test_notifier_survives_unexpected_error() -> None:
    calls: list[int] = []

    def revoke(_client: redis.Redis) -> None:
        calls.append(len(calls))
        raise ValueError("not a state of an attempt")

    # There is no Redis at this address: `revoke` fails before a command is sent.
    notifier_thread = Notifier("redis://127.0.0.1:1/0", revoke)
    for count in (1, 2, 3):
        notifier_thread.notify_soon(cancelled=True)
        wait_until(lambda count=count: len(calls) == count, within=10)  # type: ignore[misc]


def test_notifier_pauses_after_a_failed_notification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifier, "_RETRY_SECONDS", 3600.0)
    calls: list[int] = []

    def revoke(_client: redis.Redis) -> None:
        calls.append(len(calls))
        raise redis.ConnectionError("away")

    subject = Notifier("redis://127.0.0.1:1/0", revoke)
    subject.notify_soon(cancelled=True)
    wait_until(lambda: len(calls) == 1, within=10)
    # One waits in the queue, and the thread does not take it.
    subject.notify_soon()
    assert not subject._pause_over.wait(0.05)
    assert (len(calls), subject._pending.full()) == (1, True)

    subject._pause_over.set()
    wait_until(lambda: len(calls) == 2, within=10)  # The next notification revokes the message.
