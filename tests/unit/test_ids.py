"""Ids: version 7, in order, unique across threads."""

import threading
import uuid

import pytest

from jobworker.domain.ids import IdFactory, is_id

UNIX_MS = 1_772_452_800_000  # 2026-03-02 12:00 UTC


def test_an_id_is_a_version_7_uuid_of_its_moment() -> None:
    made = uuid.UUID(IdFactory().create_id(UNIX_MS))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == UNIX_MS


def test_ids_sort_in_the_order_they_were_made_also_within_a_millisecond() -> None:
    factory = IdFactory()
    # More than the 4096 that one millisecond can number, then a later one.
    made = [factory.create_id(UNIX_MS) for _ in range(10_000)] + [factory.create_id(UNIX_MS + 1000)]
    assert made == sorted(set(made))


def test_a_clock_that_steps_back_does_not_spoil_the_order() -> None:
    factory = IdFactory()
    made = [factory.create_id(UNIX_MS), factory.create_id(UNIX_MS - 60_000), factory.create_id(UNIX_MS + 1)]
    assert made == sorted(made)


def test_threads_never_get_the_same_id() -> None:
    factory = IdFactory()
    made: list[str] = []

    def make() -> None:
        made.extend(factory.create_id(UNIX_MS) for _ in range(2_000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("01997d0e-6c00-7abc-8123-0123456789ab", True),
        ("01997D0E-6C00-7ABC-8123-0123456789AB", False),
        ("{01997d0e-6c00-7abc-8123-0123456789ab}", False),
        ("01997d0e6c007abc81230123456789ab", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_only_the_canonical_form_is_an_id(text: str, expected: bool) -> None:
    assert is_id(text) is expected
