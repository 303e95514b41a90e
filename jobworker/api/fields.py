"""Strict marshmallow fields: they reject "yes" for true, "5" for 5, and times without an offset."""

import datetime as dt
import re
from typing import Any

import marshmallow as ma
from marshmallow import fields

from jobworker.domain import durations

_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?P<offset>[Zz]|[+-]\d{2}:\d{2})?\Z", re.ASCII
)

_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}\Z", re.ASCII)


class CodedMessage(str):
    """Error message with a stable code. The text follows the name of the field and states the requirement."""

    __slots__ = ("code",)
    code: str

    def __new__(cls, code: str, text: str) -> "CodedMessage":
        """Create a message with its code."""
        message = super().__new__(cls, text)
        message.code = code
        return message

    def __deepcopy__(self, memo: object) -> "CodedMessage":
        """Return this object: it is immutable, and flask-smorest copies schemas deeply."""
        return self

    def format(self, *args: object, **kwargs: object) -> "CodedMessage":
        """Return this object: marshmallow formats every message, and a formatted copy would lose the code."""
        return self


ErrorMessages = dict[str, str | list[Any] | dict[Any, Any]]


def _build_wrong_type_message(text: str) -> ErrorMessages:
    return {"invalid": CodedMessage("wrong_type", text)}


_DATETIME_MESSAGES: ErrorMessages = {
    **_build_wrong_type_message("must be an RFC 3339 time such as 2026-01-31T12:00:00Z (in a URL, write + as %2B)"),
    "naive": CodedMessage(
        "naive_time", "needs an offset from UTC, as in 2026-01-31T12:00:00Z or 2026-01-31T12:00:00+02:00"
    ),
}


class StrictBooleanField(fields.Boolean):
    """JSON boolean."""

    default_error_messages = _build_wrong_type_message("must be true or false")

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class StrictIntegerField(fields.Integer):
    """JSON integer."""

    default_error_messages = _build_wrong_type_message("must be an integer")

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.make_error("invalid")
        return value


class DurationField(fields.Field[float]):
    """Duration in seconds or in ISO 8601; deserialized to seconds."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        try:
            return durations.parse(value)
        except ValueError as error:
            raise ma.ValidationError(CodedMessage("wrong_type", str(error))) from None


class DateTimeField(fields.Field[dt.datetime]):
    """RFC 3339 time with an offset; deserialized to UTC."""

    default_error_messages = _DATETIME_MESSAGES

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dt.datetime:
        match = _RFC3339.match(value) if isinstance(value, str) else None
        if match is None:
            raise self.make_error("invalid")
        if match["offset"] is None:
            raise self.make_error("naive")
        try:
            return dt.datetime.fromisoformat(value.upper()).astimezone(dt.UTC)
        except (ValueError, OverflowError):
            raise self.make_error("invalid") from None


class DateField(fields.Field[dt.date]):
    """ISO 8601 date."""

    default_error_messages = _build_wrong_type_message("must be a date such as 2026-01-31")

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dt.date:
        if not isinstance(value, str) or not _ISO_DATE.match(value):
            raise self.make_error("invalid")
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            raise ma.ValidationError(
                CodedMessage("not_allowed", f"must be a date that exists; there is no {value}")
            ) from None


class LimitField(fields.Integer):
    """Maximum number of items of a page, parsed from a URL."""

    def __init__(self, default: int | None, maximum: int) -> None:
        self._maximum = maximum
        description = f"Maximum number of items, 1 to {maximum}."
        metadata = {"minimum": 1, "maximum": maximum, "description": description}
        super().__init__(load_default=default, metadata=metadata)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        text = str(value)
        number = int(text) if len(text) <= 9 and text.isascii() and text.isdecimal() else 0
        if not 1 <= number <= self._maximum:
            raise ma.ValidationError(CodedMessage("not_allowed", f"must be a whole number from 1 to {self._maximum}"))
        return number
