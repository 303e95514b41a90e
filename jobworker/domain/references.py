"""Parameters that are taken from results: `{"$from": "extract", "path": "/rows/0/id", "default": null}`.

`$from` names a source: a step of the same workflow that this one needs, the id of an execution that this one depends
on, or what else the place says. `path` is an RFC 6901 pointer into the source's result; left out, it is all of it.
`default` is used where the pointer leads nowhere; without it that is an error.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jobworker.domain.errors import FieldError, pointer

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)*\Z")

_FROM, _PATH, _DEFAULT = "$from", "path", "default"


class UnresolvedParameter(Exception):
    """A parameter refers to something that the result does not have."""


def check(parameters: Mapping[str, Any], sources: Collection[str], where: str) -> list[FieldError]:
    """What is wrong with the references in `parameters`, which may name these sources."""
    return [problem for place, each in _references(parameters, where) for problem in _problems(each, sources, place)]


def names(parameters: Mapping[str, Any]) -> set[str]:
    """The parameters that hold a reference, at whatever depth."""
    return {name for name, value in parameters.items() if any(True for _ in _references(value, ""))}


def resolve(parameters: Mapping[str, Any], sources: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` with each reference replaced by what it refers to; raises `UnresolvedParameter`."""
    return {name: _resolved(value, sources) for name, value in parameters.items()}


def _resolved(value: Any, sources: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_resolved(each, sources) for each in value]
    if not isinstance(value, dict):
        return value
    if _FROM in value:
        return _followed(value, sources)
    return {name: _resolved(each, sources) for name, each in value.items()}


def _followed(reference: Mapping[str, Any], sources: Mapping[str, Any]) -> Any:
    source, path = reference[_FROM], reference.get(_PATH, "")
    try:
        found = sources[source]
        for part in _parts(path):
            found = found[_index(part)] if isinstance(found, list) else _member(found, part)
    except LookupError:
        if _DEFAULT in reference:
            return reference[_DEFAULT]
        raise UnresolvedParameter(f"the result of {source} has nothing at {path or 'its root'}") from None
    return found


def _member(found: Any, name: str) -> Any:
    if not isinstance(found, dict):
        raise LookupError(name)
    return found[name]


def _index(part: str) -> int:
    if not (part.isascii() and part.isdecimal()) or (len(part) > 1 and part[0] == "0") or len(part) > 9:
        raise LookupError(part)
    return int(part)


def _parts(path: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _references(value: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every reference with its place. The nesting of what came in is bounded, so recursion is, too."""
    if isinstance(value, dict):
        if _FROM in value:
            yield where, value
            return
        for name, each in value.items():
            yield from _references(each, where + pointer(name))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _references(each, where + pointer(at))


def _problems(reference: Mapping[str, Any], sources: Collection[str], where: str) -> Iterator[FieldError]:
    source, path = reference[_FROM], reference.get(_PATH, "")
    if not isinstance(source, str) or source not in sources:
        known = ", ".join(sorted(sources)[:10])
        message = f"$from names {str(source)[:80]!r}, which is none of what this waits for: {known}"
        yield FieldError(where + pointer(_FROM), "unknown_source", message)
    if not isinstance(path, str) or not _POINTER.match(path):
        message = "path must be an RFC 6901 pointer into the result, such as /rows/0/id"
        yield FieldError(where + pointer(_PATH), "not_allowed", message)
    for name in reference:
        if name not in (_FROM, _PATH, _DEFAULT):
            message = f"{name} is not known beside $from; known are: default, path"
            yield FieldError(where + pointer(name), "unknown_field", message)
