"""JSON that can be kept everywhere."""

import pytest

from jobworker.domain import json_values


@pytest.mark.parametrize("value", ["a\x00b", "\ud800", {"a": ["\udfff"]}, {"\x00": 1}, 2**64, -(2**63) - 1, [[2**80]]])
def test_what_cannot_be_kept(value: object) -> None:
    assert json_values.why_not_kept(value)


@pytest.mark.parametrize("value", ["grün 🎈", None, True, 2**64 - 1, -(2**63), {"a": [1.5, {"b": "c"}]}])
def test_what_can_be_kept(value: object) -> None:
    assert json_values.why_not_kept(value) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": "x\\u0000y"}', {"a": "x�y"}),
        ('["\\ud83c\\udf88"]', ["🎈"]),
        ('["\\uD800!"]', ["���!"]),
        ("[18446744073709551615, 18446744073709551616]", [2**64 - 1, "18446744073709551616"]),
        (f"[{'9' * 5000}]", ["9" * 5000]),
        ("[-5, 1.5, true, null]", [-5, 1.5, True, None]),
    ],
)
def test_reading_mends(text: str, value: object) -> None:
    read = json_values.read(text)
    assert read == value
    assert json_values.why_not_kept(read) is None


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", ""])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting"):
        json_values.read(text)
