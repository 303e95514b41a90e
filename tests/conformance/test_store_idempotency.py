"""Idempotency keys: reserved once, deleted after their expiry, also with two concurrent requests."""

import datetime as dt
import threading
from dataclasses import replace

from jobworker.store.database.database import Database
from jobworker.store.executions import idempotency
from jobworker.store.executions.idempotency import IdempotencyRecord
from tests.conformance.factories import NOW
from tests.polling import TIMEOUT_SECONDS

DAY = dt.timedelta(days=1)
STORED_RESPONSE = IdempotencyRecord("key", "fingerprint", ["1", "2"], None, NOW)


def test_idempotency_key_is_reserved_once(database: Database) -> None:
    with database.write() as connection:
        assert idempotency.reserve(connection, STORED_RESPONSE, NOW - DAY) is None
    with database.write() as connection:
        again = replace(STORED_RESPONSE, execution_ids=["3"], fingerprint="other", created_at=NOW + DAY / 2)
        assert idempotency.reserve(connection, again, NOW - DAY) == STORED_RESPONSE
        assert idempotency.get(connection, "key") == STORED_RESPONSE
        assert idempotency.get(connection, "other") is None


def test_expired_idempotency_key_can_be_reserved_again(database: Database) -> None:
    with database.write() as connection:
        idempotency.reserve(connection, STORED_RESPONSE, NOW - DAY)
        later = replace(STORED_RESPONSE, execution_ids=["3"], created_at=NOW + 2 * DAY)
        assert idempotency.reserve(connection, later, NOW + DAY) is None
        assert idempotency.get(connection, "key") == later


def test_reserve_deletes_expired_keys(database: Database) -> None:
    with database.write() as connection:
        idempotency.reserve(connection, STORED_RESPONSE, NOW - DAY)
        idempotency.reserve(connection, replace(STORED_RESPONSE, key="new", created_at=NOW + 2 * DAY), NOW + DAY)
        assert idempotency.get(connection, "key") is None


def test_concurrent_reservation_waits_and_returns_the_first_response(database: Database) -> None:
    reserved, done = threading.Event(), threading.Event()
    answers: list[IdempotencyRecord | None] = []

    def second() -> None:
        reserved.wait(TIMEOUT_SECONDS)
        with database.write() as connection:
            answers.append(idempotency.reserve(connection, replace(STORED_RESPONSE, execution_ids=["9"]), NOW - DAY))
        done.set()

    thread = threading.Thread(target=second)
    thread.start()
    with database.write() as connection:
        idempotency.reserve(connection, STORED_RESPONSE, NOW - DAY)
        reserved.set()
        assert not done.wait(0.2)
    thread.join(TIMEOUT_SECONDS)
    assert answers == [STORED_RESPONSE]
