"""Parameters that refer to results of other executions."""

from typing import Any

import pytest

from jobworker.domain.errors import InvalidParameters
from jobworker.domain.workflows import result_references
from jobworker.domain.workflows.result_references import UnresolvedParameter

RESULT = {"rows": [{"id": 7}, None], "a/b": {"m~n": 1}, "": "empty", "0": "zero"}


def _make_reference(path: Any = None, **more: Any) -> dict[str, Any]:
    return {"$from": "extract", **({} if path is None else {"path": path}), **more}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (None, RESULT), ("", RESULT), ("/rows/0/id", 7), ("/rows/1", None), ("/a~1b/m~0n", 1), ("/", "empty"),
        ("/0", "zero"),
    ],
)  # fmt: skip
def test_result_reference_resolved_by_pointer(path: str | None, value: Any) -> None:
    assert result_references.substitute_references({"x": _make_reference(path)}, {"extract": RESULT}) == {"x": value}


@pytest.mark.parametrize("path", ["/rows/2", "/rows/-", "/rows/00", "/rows/-1", "/rows/1/x", "/no", "/rows/9999999999"])
def test_dangling_reference_rejected_unless_default(path: str) -> None:
    with pytest.raises(UnresolvedParameter, match="the result of extract has nothing at "):
        result_references.substitute_references({"x": _make_reference(path)}, {"extract": RESULT})
    assert result_references.substitute_references({"x": _make_reference(path, default=None)}, {"extract": RESULT}) == {
        "x": None
    }


def test_reference_to_missing_result_rejected() -> None:
    with pytest.raises(UnresolvedParameter, match="nothing at its root"):
        result_references.substitute_references({"x": _make_reference()}, {})
    with pytest.raises(UnresolvedParameter):
        result_references.substitute_references({"x": _make_reference("/a")}, {"extract": None})


def test_nested_references_resolved_only_once() -> None:
    parameters = {"plain": {"a": 1}, "deep": [{"x": [_make_reference("/rows")]}], "n": 1}
    assert result_references.find_referring_parameters(parameters) == {"deep"}
    resolved = result_references.substitute_references(parameters, {"extract": {"rows": _make_reference("/else")}})
    assert resolved == {"plain": {"a": 1}, "deep": [{"x": [_make_reference("/else")]}], "n": 1}


def test_referenced_value_looked_up_once_and_size_counted_each_time() -> None:
    names: list[str] = []

    class CountingSources(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            names.append(name)
            return super().__getitem__(name)

    sources = CountingSources(a={"text": "x" * 998, "n": 1}, b=2)
    parameters = {"x": [{"$from": "a", "path": "/text"}] * 65, "y": {"$from": "b"}, "z": [{"$from": "a", "path": "/n"}]}
    assert result_references.list_sources(parameters) == ["a", "b"]
    assert len(result_references.substitute_references(parameters, sources)["x"]) == 65
    assert names == ["a", "b"]
    parameters["x"] = [*parameters["x"], {"$from": "a", "path": "/text"}]
    with pytest.raises(InvalidParameters, match="more than 65536 bytes"):
        result_references.substitute_references(parameters, sources)


def test_invalid_references_reported_with_pointer() -> None:
    parameters = {
        "a": [{"$from": "load"}],
        "b/c": _make_reference("rows"),
        "c": _make_reference("/m~n"),
        "d": _make_reference(1, more=2),
        "e": {"$from": ["extract"]},
    }
    assert [
        (problem.pointer, problem.code) for problem in result_references.validate(parameters, {"extract"}, "/p")
    ] == [
        ("/p/a/0/$from", "unknown_source"),
        ("/p/b~1c/path", "not_allowed"),
        ("/p/c/path", "not_allowed"),
        ("/p/d/path", "not_allowed"),
        ("/p/d/more", "unknown_field"),
        ("/p/e/$from", "unknown_source"),
    ]
