"""JSON Merge Patch (RFC 7396): partial changes of a JSON value."""

from collections.abc import Mapping
from typing import Any


def apply(target: Any, patch: Any) -> Any:
    """Return `target` with the changes of `patch`: objects are merged, null removes, and any other value replaces.

    Neither argument is changed.
    """
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = apply(merged.get(name), value)
    return merged
