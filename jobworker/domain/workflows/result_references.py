"""References to results in parameters: `{"$from": "extract", "path": "/rows/0/id", "default": null}`.

`$from` names a source: a step of the same workflow that the step needs, the id of an execution that the execution
depends on, or another source that the place of the reference defines. `path` is an RFC 6901 pointer into the source's
result; if absent, the reference is to the whole result. `default` is used where the pointer leads nowhere; without a
default that is an error. Many references to one result cost no more than their text: the size of the resolved
parameters is computed before they are assembled, and parameters that are too large are refused.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from jobworker.domain.errors import FieldError, InvalidParameters, format_pointer
from jobworker.domain.jobs.parameters import MAX_PARAMETERS_BYTES

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*\Z")

_FROM, _PATH, _DEFAULT = "$from", "path", "default"

#: Placeholder of a value that a result does not have.
_MISSING = object()


class UnresolvedParameter(Exception):
    """Error for a parameter that refers to a value which the result does not have."""


class ResultSources(Protocol):
    """Results by the names of their sources. Raises `LookupError` for a source without a result."""

    def __getitem__(self, name: str, /) -> Any: ...


def validate(parameters: Mapping[str, Any], sources: Collection[str], where: str) -> list[FieldError]:
    """Return the problems of the references in `parameters`; `sources` are the names that they may use."""
    return [
        problem
        for place, reference in _locate_references(parameters, where)
        for problem in _validate_reference(reference, sources, place)
    ]


def find_referring_parameters(parameters: Mapping[str, Any]) -> set[str]:
    """Return the names of the parameters that contain a reference, at any depth."""
    return {name for name, value in parameters.items() if any(True for _ in _iterate_references(value))}


def list_sources(parameters: Mapping[str, Any]) -> list[str]:
    """Return each source that `parameters` refer to once, in the order in which `resolve` looks them up."""
    return list(dict.fromkeys(str(reference[_FROM]) for reference in _iterate_references(parameters)))


def substitute_references(parameters: Mapping[str, Any], sources: ResultSources) -> dict[str, Any]:
    """Return `parameters` with each reference replaced by the value that it refers to.

    Looks up each source once. Raises `UnresolvedParameter`, or `InvalidParameters` as soon as the referenced values
    have more bytes than parameters may have.
    """
    uses = Counter((reference[_FROM], reference.get(_PATH, "")) for reference in _iterate_references(parameters))
    values_by_reference = _collect_values(uses, sources) if uses else {}
    return {name: _resolve_value(value, values_by_reference) for name, value in parameters.items()}


def _collect_values(uses: Mapping[tuple[str, str], int], sources: ResultSources) -> dict[tuple[str, str], Any]:
    """Return the value at each (source, path); `uses` counts the references to each."""
    paths: dict[str, list[str]] = {}
    for source, path in uses:
        paths.setdefault(source, []).append(path)
    values_by_reference, bytes_left = {}, MAX_PARAMETERS_BYTES
    for source, source_paths in paths.items():
        try:
            result = sources[source]
        except LookupError:
            result = _MISSING
        for path in source_paths:
            value = values_by_reference[source, path] = _get_at_pointer(result, path)
            bytes_left -= _compute_json_size(value) * uses[source, path]
            if bytes_left < 0:
                message = (
                    f"the parameters have more than {MAX_PARAMETERS_BYTES} bytes as JSON, "
                    "which is the most that is allowed"
                )
                raise InvalidParameters(message, [FieldError("/parameters", "too_large", message)])
    return values_by_reference


def _resolve_value(value: Any, values_by_reference: Mapping[tuple[str, str], Any]) -> Any:
    if isinstance(value, list):
        return [_resolve_value(item, values_by_reference) for item in value]
    if not isinstance(value, dict):
        return value
    if _FROM in value:
        return _resolve_reference(value, values_by_reference)
    return {name: _resolve_value(item, values_by_reference) for name, item in value.items()}


def _resolve_reference(reference: Mapping[str, Any], values_by_reference: Mapping[tuple[str, str], Any]) -> Any:
    source, path = reference[_FROM], reference.get(_PATH, "")
    value = values_by_reference[source, path]
    if value is not _MISSING:
        return value
    if _DEFAULT in reference:
        return reference[_DEFAULT]
    raise UnresolvedParameter(f"the result of {source} has nothing at {path or 'its root'}")


def _get_at_pointer(value: Any, path: str) -> Any:
    try:
        for part in _split_pointer(path):
            value = value[_parse_index(part)] if isinstance(value, list) else _get_member(value, part)
    except LookupError:
        return _MISSING
    return value


def _compute_json_size(value: Any) -> int:
    try:
        return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass"))
    except TypeError:
        return 0  # Not JSON: the check of the resolved parameters reports the problem.


def _get_member(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise LookupError(name)
    return value[name]


def _parse_index(part: str) -> int:
    if not (part.isascii() and part.isdecimal()) or (len(part) > 1 and part[0] == "0") or len(part) > 9:
        raise LookupError(part)
    return int(part)


def _split_pointer(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _iterate_references(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every reference, from the first to the last."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(reversed(item))
        elif isinstance(item, dict):
            if _FROM in item:
                yield item
            else:
                pending.extend(reversed(item.values()))


def _locate_references(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every reference with its place. The recursion is bounded because the nesting of the input is."""
    if isinstance(value, dict):
        if _FROM in value:
            yield where, value
            return
        for name, item in value.items():
            yield from _locate_references(item, where + format_pointer(name))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _locate_references(item, where + format_pointer(at))


def _validate_reference(reference: Mapping[str, Any], sources: Collection[str], where: str) -> Iterator[FieldError]:
    source, path = reference[_FROM], reference.get(_PATH, "")
    if not isinstance(source, str) or source not in sources:
        source_names = ", ".join(sorted(sources)[:10])
        message = f"$from names {str(source)[:80]!r}, which is not a source here; the sources are: {source_names}"
        yield FieldError(where + format_pointer(_FROM), "unknown_source", message)
    if not isinstance(path, str) or not _POINTER.match(path):
        message = "path must be an RFC 6901 pointer into the result, such as /rows/0/id"
        yield FieldError(where + format_pointer(_PATH), "not_allowed", message)
    for name in reference:
        if name not in (_FROM, _PATH, _DEFAULT):
            message = f"{name} is not known beside $from; known are: default, path"
            yield FieldError(where + format_pointer(name), "unknown_field", message)
