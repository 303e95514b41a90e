"""Keyset pagination: a cursor identifies the last row of a page, and belongs to one list.

A cursor is opaque to clients: base64url of a digest and the key of the last row. The digest covers
the list's name, its filters and the key, so a cursor of another list, for other filters or with a
changed key is refused instead of returning an unrelated page. The digest is not secret and grants
nothing, so clients can compute the digest of any key: each list names the parser of its keys, and
a key that the parser refuses is handled like a wrong digest.
"""

import base64
import binascii
import contextlib
import datetime as dt
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson
import sqlalchemy as sa

from jobworker.domain.errors import FieldError, InvalidCursor, UnreadableRow
from jobworker.domain.ids import is_id
from jobworker.store import unreadable_rows

Item = TypeVar("Item", covariant=True)
Row = TypeVar("Row")
Key = TypeVar("Key")
Other = TypeVar("Other")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

_DIGEST_BYTES = 9

#: Length of the longest text column that a list is ordered by.
_MAX_NAME_LENGTH = 255

#: Numbers with few enough digits for an integer column of either database.
_NUMBER_PATTERN = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Page of a list, and the cursor of the next page if there is one.

    `cursor_after` returns the cursor of a page that has the first n items only. `unreadable` maps the names of rows
    that are missing, or partly missing, to the reason.
    """

    items: Sequence[Item]
    next: str | None
    cursor_after: Callable[[int], str]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def replace_items(self, items: Sequence[Other]) -> "Page[Other]":
        """Return this page with `items`, one for each of the original items."""
        return Page(items, self.next, self.cursor_after, self.unreadable)


@dataclass(frozen=True, slots=True)
class Paginator(Generic[Key]):
    """List with its filters, to which a cursor belongs. `parse_key` raises `ValueError` for an invalid key."""

    name: str
    filters: Mapping[str, Any]
    parse_key: Callable[[str], Key]

    def parse_cursor(self, cursor: str | None) -> Key | None:
        """Return the key of the last row before `cursor`; raise `InvalidCursor` if the cursor is not of this list."""
        if cursor is None:
            return None
        try:
            raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            key = raw[_DIGEST_BYTES:].decode()
            position = self.parse_key(key)
        except (binascii.Error, ValueError, OverflowError):
            raise _build_cursor_error() from None
        if raw[:_DIGEST_BYTES] != self._compute_digest(key) or cursor != self.build_cursor(key):
            raise _build_cursor_error()
        return position

    def build_cursor(self, key: str) -> str:
        """Return the cursor of the rows after `key`."""
        return base64.urlsafe_b64encode(self._compute_digest(key) + key.encode()).rstrip(b"=").decode()

    def read_page(
        self,
        rows: Sequence[sa.Row[Any]],
        limit: int,
        key: Callable[[sa.Row[Any]], str],
        read: Callable[[sa.Row[Any]], Item],
        describe: Callable[[Any], str],
    ) -> Page[Item]:
        """Return a page of rows that may be unreadable.

        `describe` returns the name of a row, as it was given to `unreadable_rows.build_reader`.
        """
        page = self.build_page(rows, limit, key)
        items, readable_rows = [], []
        for row in page.items:
            with contextlib.suppress(UnreadableRow):
                items.append(read(row))
                readable_rows.append(row)
        problems = unreadable_rows.problem_log.get_problems()
        row_problems = (
            {name: problems[name] for name in map(describe, page.items) if name in problems} if problems else {}
        )
        return Page(items, page.next, lambda count: self.build_cursor(key(readable_rows[count - 1])), row_problems)

    def build_page(self, rows: Sequence[Row], limit: int, key: Callable[[Row], str]) -> Page[Row]:
        """Return a page from up to `limit + 1` rows; the extra row only indicates that another page exists."""

        def cut(count: int) -> str:
            return self.build_cursor(key(rows[count - 1]))

        if len(rows) <= limit:
            return Page(rows, None, cut)
        shown = rows[:limit]
        return Page(shown, cut(limit), cut)

    def _compute_digest(self, key: str) -> bytes:
        covered = [self.name, {name: value for name, value in self.filters.items() if value is not None}, key]
        return hashlib.blake2b(orjson.dumps(covered, option=orjson.OPT_SORT_KEYS), digest_size=_DIGEST_BYTES).digest()


def parse_id_key(key: str) -> str:
    """Parse a key that is an id."""
    if not is_id(key):
        raise ValueError(key)
    return key


def parse_name_key(key: str) -> str:
    """Parse a key that is a name or other single-line text."""
    if not 0 < len(key) <= _MAX_NAME_LENGTH or not key.isprintable():
        raise ValueError(key)
    return key


def parse_number_key(key: str) -> int:
    """Parse a key that is a number."""
    if not _NUMBER_PATTERN.match(key):
        raise ValueError(key)
    return int(key)


def parse_time_key(key: str) -> dt.datetime:
    """Parse a key that is a time with its offset."""
    time = dt.datetime.fromisoformat(key)
    if time.tzinfo is None:
        raise ValueError(key)
    return time.astimezone(dt.UTC)


def _build_cursor_error() -> InvalidCursor:
    message = "this cursor does not belong to this list and these filters; start again without it"
    return InvalidCursor(message, [FieldError("cursor", "invalid_cursor", message)])
