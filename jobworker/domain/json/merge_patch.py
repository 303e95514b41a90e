"""JSON Merge Patch (RFC 7396): how somebody says what is to be different about a JSON value."""

from collections.abc import Mapping
from typing import Any


def apply(target: Any, patch: Any) -> Any:
    """`target` with the changes of `patch`: objects are merged, null removes, everything else replaces.

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
