"""Marshmallow fields that take exactly what they say: no "yes" for true, no "5" for 5, no time without an offset."""

import datetime as dt
import re
from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.domain import durations

_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?P<offset>[Zz]|[+-]\d{2}:\d{2})?\Z", re.ASCII
)

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)


class Coded(str):
    """A message with the stable code of what it complains about. It says what must be, after the field's name."""

    __slots__ = ("code",)
    code: str

    def __new__(cls, code: str, text: str) -> "Coded":
        """Text that knows its code."""
        made = super().__new__(cls, text)
        made.code = code
        return made

    def __deepcopy__(self, memo: object) -> "Coded":
        """Itself: it never changes, and flask-smorest copies schemas with everything in them."""
        return self

    def format(self, *args: object, **kwargs: object) -> "Coded":
        """Itself: marshmallow formats every message, and would lose the code."""
        return self


Messages = dict[str, str | list[Any] | dict[Any, Any]]


def _wrong_type(text: str) -> Messages:
    return {"invalid": Coded("wrong_type", text)}


_NO_MOMENT: Messages = {
    **_wrong_type("must be an RFC 3339 time such as 2026-01-31T12:00:00Z (in a URL, write + as %2B)"),
    "naive": Coded("naive_time", "needs an offset from UTC, as in 2026-01-31T12:00:00Z or 2026-01-31T12:00:00+02:00"),
}


class Flag(fields.Boolean):
    """true or false."""

    default_error_messages = _wrong_type("must be true or false")

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class Count(fields.Integer):
    """A JSON integer."""

    default_error_messages = _wrong_type("must be an integer")

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid")
        return value


class Duration(fields.Field[float]):
    """Seconds or an ISO 8601 duration; seconds inside."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        try:
            return durations.parse(value)
        except ValueError as error:
            raise ma.ValidationError(Coded("wrong_type", str(error))) from None


class Moment(fields.Field[dt.datetime]):
    """An RFC 3339 time with its offset; UTC inside."""

    default_error_messages = _NO_MOMENT

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dt.datetime:
        found = _RFC3339.match(value) if isinstance(value, str) else None
        if found is None:
            raise self.make_error("invalid")
        if found["offset"] is None:
            raise self.make_error("naive")
        try:
            return dt.datetime.fromisoformat(value.upper()).astimezone(dt.UTC)
        except (ValueError, OverflowError):
            raise self.make_error("invalid") from None


class Day(fields.Field[dt.date]):
    """A date."""

    default_error_messages = _wrong_type("must be a date such as 2026-01-31")

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dt.date:
        if not isinstance(value, str) or not _DATE.match(value):
            raise self.make_error("invalid")
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            raise ma.ValidationError(Coded("not_allowed", f"is no day: there is no {value}")) from None


class Limit(fields.Integer):
    """How many items a page has, out of a URL."""

    def __init__(self, default: int | None, highest: int) -> None:
        self._maximum = highest
        description = f"At most so many items, 1 to {highest}."
        shown = {"minimum": 1, "maximum": highest, "description": description}
        super().__init__(load_default=default, metadata=shown)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        text = str(value)
        number = int(text) if len(text) <= 9 and text.isascii() and text.isdecimal() else 0
        if not 1 <= number <= self._maximum:
            raise ma.ValidationError(Coded("not_allowed", f"must be a whole number from 1 to {self._maximum}"))
        return number
