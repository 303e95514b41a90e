"""Keyset pages: a cursor says after which row the next page begins, and belongs to one list.

A cursor is opaque to its bearer: base64url of a digest and the key of the last row. The digest covers
the list's name, its filters and the key, so a cursor of another list, for other filters or with a
changed key is refused instead of answering with a page that nobody asked for. It is no secret and
grants nothing.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from jobworker.domain.errors import FieldError, InvalidCursor

Item = TypeVar("Item", covariant=True)
Row = TypeVar("Row")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

_DIGEST_BYTES = 9


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some rows of a list, and the cursor of the next page if there is one."""

    items: Sequence[Item]
    next: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """One list with its filters: what a cursor belongs to."""

    name: str
    filters: Mapping[str, Any]

    def position(self, cursor: str | None) -> str | None:
        """The key of the last row that the bearer of `cursor` has seen; raises `InvalidCursor`."""
        if cursor is None:
            return None
        try:
            raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            key = raw[_DIGEST_BYTES:].decode()
        except (binascii.Error, UnicodeError, ValueError):
            raise _refused() from None
        if raw[:_DIGEST_BYTES] != self._digest(key) or cursor != self.cursor(key):
            raise _refused()
        return key

    def cursor(self, key: str) -> str:
        """The cursor for the rows after `key`."""
        return base64.urlsafe_b64encode(self._digest(key) + key.encode()).rstrip(b"=").decode()

    def page(self, rows: Sequence[Row], limit: int, key: Callable[[Row], str]) -> Page[Row]:
        """A page from up to `limit + 1` rows: the one too many only tells that there are more."""
        if len(rows) <= limit:
            return Page(rows, None)
        shown = rows[:limit]
        return Page(shown, self.cursor(key(shown[-1])))

    def _digest(self, key: str) -> bytes:
        covered = [self.name, {name: value for name, value in self.filters.items() if value is not None}, key]
        return hashlib.blake2b(orjson.dumps(covered, option=orjson.OPT_SORT_KEYS), digest_size=_DIGEST_BYTES).digest()


def _refused() -> InvalidCursor:
    message = "this cursor does not belong to this list and these filters; start again without it"
    return InvalidCursor(message, [FieldError("cursor", "invalid_cursor", message)])
