"""The mapping that a job keeps with its execution."""

from typing import Any

import pytest

from jobworker.domain.executions import metadata
from jobworker.domain.executions.metadata import MAX_METADATA_BYTES, Metadata

_DEEP: list[Any] = []
for _ in range(150):
    _DEEP = [_DEEP]


@pytest.fixture
def told() -> list[str]:
    """A word for each time that something changed."""
    return []


@pytest.fixture
def mapping(told: list[str]) -> Metadata:
    """A mapping that an earlier attempt has left."""
    return Metadata({"page": 3, "done": ["a"]}, lambda: told.append("changed"))


def test_it_is_a_mapping(mapping: Metadata) -> None:
    mapping["page"] = 4
    mapping.update(cursor={"after": "x"})
    del mapping["done"]
    assert dict(mapping) == {"page": 4, "cursor": {"after": "x"}}
    assert (len(mapping), "done" in mapping, mapping.get("none")) == (2, False, None)
    assert repr(mapping) == "Metadata({'page': 4, 'cursor': {'after': 'x'}})"


def test_only_changes_are_passed_on(mapping: Metadata, told: list[str]) -> None:
    assert mapping.take_changes() == {}
    mapping["page"] = 4
    mapping["page"] = 5
    del mapping["done"]
    assert told == ["changed"] * 3
    assert mapping.take_changes() == {"page": 5, "done": None}
    assert mapping.take_changes() == {}


def test_what_could_not_be_passed_on_is_taken_again_unless_it_changed(mapping: Metadata) -> None:
    mapping["page"], mapping["other"] = 4, 1
    taken = mapping.take_changes()
    mapping["page"] = 5
    mapping.restore_changes(taken)
    assert mapping.take_changes() == {"page": 5, "other": 1}


def test_values_are_copies(mapping: Metadata) -> None:
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
def test_what_cannot_be_kept_is_refused_at_once(mapping: Metadata, value: Any) -> None:
    with pytest.raises(ValueError, match="metadata 'bad'"):
        mapping["bad"] = value
    assert (dict(mapping), mapping.take_changes()) == ({"page": 3, "done": ["a"]}, {})


@pytest.mark.parametrize("name", ["", "x" * 129, 7, None])
def test_names_are_short_text(mapping: Metadata, name: Any) -> None:
    with pytest.raises(ValueError, match="named by text"):
        mapping[name] = 1


def test_all_of_it_has_a_limit(mapping: Metadata) -> None:
    for number in range(15):
        mapping[f"k{number}"] = "x" * 1000
    with pytest.raises(ValueError, match="16384 bytes"):
        mapping["more"] = "x" * 2000
    mapping["k0"] = "y" * 1000
    del mapping["k1"], mapping["k2"]
    mapping["more"] = "x" * 2000
    assert metadata.compute_size(dict(mapping)) <= MAX_METADATA_BYTES


def test_changes_make_the_mapping_again(mapping: Metadata) -> None:
    mapping["page"] = 9
    del mapping["done"]
    mapping["new"] = [1]
    assert metadata.merge_changes({"page": 3, "done": ["a"], "stays": 1}, mapping.take_changes()) == {
        "page": 9,
        "new": [1],
        "stays": 1,
    }
    assert metadata.merge_changes(None, {"gone": None}) == {}
