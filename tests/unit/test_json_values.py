"""The rule for JSON values that are stored."""

import collections
import datetime as dt
import enum
import json
from typing import Any

import pytest

from jobworker.domain.json import json_values
from jobworker.domain.json.json_values import MAX_DEPTH, UnacceptableValue


def make_nested(levels: int, innermost: Any = None) -> Any:
    """Return `levels` nested arrays."""
    value: Any = [] if innermost is None else [innermost]
    for _ in range(levels - 1):
        value = [value]
    return value


class Color(enum.StrEnum):
    """A subclass of `str`."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "place", "why"),
    [
        ("a\x00b", "", "NUL"),
        ({"a": ["b", {"c/d": "\x00"}]}, "/a/1/c~1d", "NUL"),
        ({"a": {"\x00": 1}}, "/a", "a key that is text with the character NUL"),
        ("\ud800", "", "surrogate"),
        ({"ü": ["\udfff"]}, "/ü/0", "surrogate"),
        ({"\ud800": 1}, "", "a key that is text with half a surrogate pair"),
        (2**64, "", "64 bits"),
        (-(2**63) - 1, "", "64 bits"),
        ([[10**5000]], "/0/0", "64 bits"),
        ([1.5, float("nan")], "/1", "not a finite number"),
        (float("-inf"), "", "not a finite number"),
        ({"a": {"__type__": "uuid", "__value__": "zz"}}, "/a", "__type__"),
        ({1: "a", "1": "b"}, "", "equal as text"),
        ({(1, 2): "a"}, "", "a key of the type tuple"),
        ([b"bytes"], "/0", "type bytes"),
        ((dt.date(2026, 1, 1),), "/0", "type date"),
        (make_nested(MAX_DEPTH + 1), "/0" * MAX_DEPTH, "100 levels"),
        ({"a": make_nested(MAX_DEPTH)}, "/a" + "/0" * (MAX_DEPTH - 1), "100 levels"),
    ],
)
def test_unacceptable_value_rejected_with_pointer(value: object, place: str, why: str) -> None:
    with pytest.raises(UnacceptableValue) as refused:
        json_values.check(value)
    assert refused.value.pointer == place
    assert why in refused.value.reason
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        *["grün 🎈", None, True, 2**64 - 1, -(2**63), 1e308, -0.0, "", [], {}],
        {"a": [1.5, {"b": "c"}]},
        (1, ("a", None)),
        {1: "a", None: "b", False: "c", 2.5: "d"},
        collections.OrderedDict(a=Color.RED),
        {"__type__": "uuid"},
        {"__type__": "uuid", "__value__": "zz", "more": 1},
        make_nested(MAX_DEPTH),
        make_nested(MAX_DEPTH, "x"),
    ],
)
def test_acceptable_value_passes_check(value: object) -> None:
    json_values.check(value)


def test_deep_nesting_rejected_without_recursion_error() -> None:
    deep = {"a": make_nested(100_000)}
    with pytest.raises(UnacceptableValue, match="100 levels") as refused:
        json_values.check(deep)
    assert len(str(refused.value)) < 400
    for reads in (json_values.parse, json_values.parse_sanitized):
        with pytest.raises(UnacceptableValue, match="100 levels"):
            reads("[" * 100_000 + "]" * 100_000)


def test_kombu_tagged_value_accepted_with_allow_tagged() -> None:
    tagged = {"when": {"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}}
    json_values.check(tagged, allow_tagged=True)
    with pytest.raises(UnacceptableValue, match="NUL"):
        json_values.check({**tagged, "text": "\x00"}, allow_tagged=True)


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ('{"url": "a", "url": "b"}', "", 'the key "url" twice'),
        ('[{}, {"a": {"b": 1, "c": 2, "b": 1}}]', "/1/a", 'the key "b" twice'),
        ('{"a": {"b": 1, "b": 2}, "a": 3}', "", 'the key "a" twice'),
        ('{"a": "\\u0000"}', "/a", "NUL"),
        ("[18446744073709551616]", "/0", "64 bits"),
        (f"[{'9' * 1_000_000}]", "/0", "64 bits"),
        ("[1e999]", "/0", "not a finite number"),
    ],
)
def test_parse_rejects_unacceptable_json(text: str, place: str, why: str) -> None:
    with pytest.raises(UnacceptableValue) as refused:
        json_values.parse(text)
    assert (refused.value.pointer, why in str(refused.value)) == (place, True)


def test_parse_returns_value() -> None:
    value = {"a": [1, -5, 1.5, True, None, "ü"], "b": {"a": 2**64 - 1}}
    assert json_values.parse(json.dumps(value)) == value


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
def test_parse_sanitized_replaces_unacceptable_parts(text: str, value: object) -> None:
    read = json_values.parse_sanitized(text)
    assert read == value
    json_values.check(read)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", ""])
@pytest.mark.parametrize("reads", [json_values.parse_sanitized, json_values.parse])
def test_invalid_json_rejected(reads: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|Expecting"):
        reads(text)
