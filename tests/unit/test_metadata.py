"""The metadata mapping that a job keeps with its execution."""

from typing import Any

import pytest

from jobworker.domain.executions import metadata
from jobworker.domain.executions.metadata import MAX_METADATA_BYTES, Metadata

_DEEP: list[Any] = []
for _ in range(150):
    _DEEP = [_DEEP]


@pytest.fixture
def notifications() -> list[str]:
    """A list with an item per change notification."""
    return []


@pytest.fixture
def mapping(notifications: list[str]) -> Metadata:
    """A mapping with the values of an earlier attempt."""
    return Metadata({"page": 3, "done": ["a"]}, lambda: notifications.append("changed"))


def test_metadata_behaves_as_mapping(mapping: Metadata) -> None:
    mapping["page"] = 4
    mapping.update(cursor={"after": "x"})
    del mapping["done"]
    assert dict(mapping) == {"page": 4, "cursor": {"after": "x"}}
    assert (len(mapping), "done" in mapping, mapping.get("none")) == (2, False, None)
    assert repr(mapping) == "Metadata({'page': 4, 'cursor': {'after': 'x'}})"


def test_metadata_changes_taken_once(mapping: Metadata, notifications: list[str]) -> None:
    assert mapping.take_changes() == {}
    mapping["page"] = 4
    mapping["page"] = 5
    del mapping["done"]
    assert notifications == ["changed"] * 3
    assert mapping.take_changes() == {"page": 5, "done": None}
    assert mapping.take_changes() == {}


def test_restored_changes_do_not_override_newer_values(mapping: Metadata) -> None:
    mapping["page"], mapping["other"] = 4, 1
    taken = mapping.take_changes()
    mapping["page"] = 5
    mapping.restore_changes(taken)
    assert mapping.take_changes() == {"page": 5, "other": 1}


def test_metadata_values_are_copies(mapping: Metadata) -> None:
    mapping["done"].append("b")
    mine = ["c"]
    mapping["mine"] = mine
    mine.append("d")
    assert (mapping["done"], mapping["mine"], mapping.take_changes()) == (["a"], ["c"], {"mine": ["c"]})


@pytest.mark.parametrize(
    "value",
    [
        None,
        object(),
        float("nan"),
        {1, 2},
        "a\x00b",
        "\ud800",
        2**70,
        "x" * MAX_METADATA_BYTES,
        {"k": {"k": 2**64}},
        {"__type__": "x", "__value__": 1},
        _DEEP,
    ],
)
def test_unstorable_metadata_value_rejected(mapping: Metadata, value: Any) -> None:
    with pytest.raises(ValueError, match="metadata 'bad'"):
        mapping["bad"] = value
    assert (dict(mapping), mapping.take_changes()) == ({"page": 3, "done": ["a"]}, {})


@pytest.mark.parametrize("name", ["", "x" * 129, 7, None])
def test_invalid_metadata_name_rejected(mapping: Metadata, name: Any) -> None:
    with pytest.raises(ValueError, match="named by text"):
        mapping[name] = 1


def test_metadata_total_size_bounded(mapping: Metadata) -> None:
    for number in range(15):
        mapping[f"k{number}"] = "x" * 1000
    with pytest.raises(ValueError, match="16384 bytes"):
        mapping["more"] = "x" * 2000
    mapping["k0"] = "y" * 1000
    del mapping["k1"], mapping["k2"]
    mapping["more"] = "x" * 2000
    assert metadata.compute_size(dict(mapping)) <= MAX_METADATA_BYTES


def test_merged_changes_reproduce_mapping(mapping: Metadata) -> None:
    mapping["page"] = 9
    del mapping["done"]
    mapping["new"] = [1]
    assert metadata.merge_changes({"page": 3, "done": ["a"], "stays": 1}, mapping.take_changes()) == {
        "page": 9,
        "new": [1],
        "stays": 1,
    }
    assert metadata.merge_changes(None, {"gone": None}) == {}
