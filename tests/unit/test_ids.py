"""Ids: UUIDs of version 7, ordered, unique across threads."""

import threading
import uuid

import pytest

from jobworker.domain.ids import IdFactory, is_id

UNIX_MS = 1_772_452_800_000  # 2026-03-02 12:00 UTC


def test_id_is_version_7_uuid_of_its_time() -> None:
    created = uuid.UUID(IdFactory().create_id(UNIX_MS))
    assert (created.version, created.variant) == (7, uuid.RFC_4122)
    assert created.int >> 80 == UNIX_MS


def test_ids_sorted_by_creation_within_a_millisecond() -> None:
    factory = IdFactory()
    # More ids than the 4096 that one millisecond can number, then an id of a later time.
    ids = [factory.create_id(UNIX_MS) for _ in range(10_000)] + [factory.create_id(UNIX_MS + 1000)]
    assert ids == sorted(set(ids))


def test_ids_ordered_after_clock_steps_back() -> None:
    factory = IdFactory()
    ids = [factory.create_id(UNIX_MS), factory.create_id(UNIX_MS - 60_000), factory.create_id(UNIX_MS + 1)]
    assert ids == sorted(ids)


def test_ids_unique_across_threads() -> None:
    factory = IdFactory()
    ids: list[str] = []

    def make() -> None:
        ids.extend(factory.create_id(UNIX_MS) for _ in range(2_000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 8_000


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
def test_only_canonical_uuid_form_accepted_as_id(text: str, expected: bool) -> None:
    assert is_id(text) is expected
