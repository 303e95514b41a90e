"""Metadata: a small mapping that a job stores with its execution while it runs."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from jobworker.domain.json import json_values

#: Maximum size of the whole mapping (bytes of JSON).
MAX_METADATA_BYTES = 16 * 1024

#: Maximum length of a name (characters).
_MAX_NAME_LENGTH = 128


class Metadata(MutableMapping[str, Any]):
    """Names and JSON values. Each assigned value is checked; `ValueError` describes its problem.

    Values are copies: a list that was read and appended to has to be assigned again. `on_change` is called after each
    change; `take_changes` returns the changes since its last call, with None for deleted names.
    """

    def __init__(self, values: Mapping[str, Any], on_change: Callable[[], None]) -> None:
        self._values = {name: json.dumps(value, separators=(",", ":")) for name, value in values.items()}
        self._changes: dict[str, Any] = {}
        self._changed = on_change
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._values[name])

    def __setitem__(self, name: str, value: Any) -> None:
        if value is None:
            raise ValueError(f"metadata {name!r} cannot be None; use `del` to remove it")
        text = _encode_value(name, value)
        with self._lock:
            other_size = sum(
                _compute_entry_size(other_name, other_text)
                for other_name, other_text in self._values.items()
                if other_name != name
            )
            if other_size + _compute_entry_size(name, text) > MAX_METADATA_BYTES:
                raise ValueError(f"metadata {name!r} does not fit: all of it may be {MAX_METADATA_BYTES} bytes of JSON")
            self._values[name] = text
            self._changes[name] = json.loads(text)
        self._changed()

    def __delitem__(self, name: str) -> None:
        with self._lock:
            del self._values[name]
            self._changes[name] = None
        self._changed()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Metadata({dict(self)!r})"

    def reset_after_fork(self) -> None:
        """Reset pending changes and the lock in a forked process."""
        self._lock = threading.Lock()
        self._changes = {}

    def take_changes(self) -> dict[str, Any]:
        """Return and clear the changes since the last call."""
        with self._lock:
            changes, self._changes = self._changes, {}
        return changes

    def restore_changes(self, changes: Mapping[str, Any]) -> None:
        """Restore changes that could not be sent, except names that have changed since, for the next `take_changes`."""
        with self._lock:
            self._changes = {**changes, **self._changes}


def merge_changes(stored: Mapping[str, Any] | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored mapping with the changes of `Metadata.take_changes` applied."""
    return {name: value for name, value in {**(stored or {}), **changes}.items() if value is not None}


def compute_size(values: Mapping[str, Any]) -> int:
    """Return the size of a mapping, as counted in `MAX_METADATA_BYTES`."""
    return sum(_compute_entry_size(name, json.dumps(value, separators=(",", ":"))) for name, value in values.items())


def _compute_entry_size(name: str, text: str) -> int:
    # Two quotes, colon and comma.
    return len(name.encode("utf-8", "replace")) + len(text) + 4


def _encode_value(name: Any, value: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_LENGTH:
        raise ValueError(f"metadata is named by text of 1 to {_MAX_NAME_LENGTH} characters, not {name!r:.100}")
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata {name!r} is a {type(value).__name__} that is not JSON: {error}") from None
    try:
        json_values.check({name: value})
    except json_values.UnacceptableValue as error:
        raise ValueError(f"metadata {name!r} contains {error}") from None
    return text
