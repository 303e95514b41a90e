"""Reader of JSON objects from clients: strict, and with all problems reported at once."""

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jobworker.domain import durations
from jobworker.domain.errors import FieldError, InvalidInput, format_pointer

_DAY = 24 * 3600.0

#: Control characters except line feed and tab, other line separators, and characters that set the text direction.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def validate_prose(where: str, text: str) -> Iterator[FieldError]:
    """Yield a problem if a text for people contains control characters; `where` points to the text."""
    if match := _CONTROL_CHARACTERS.search(text):
        allowed = "no control characters but line feed and tab, and none that set the direction of text"
        message = (
            f"{_get_field_name(where)} must have {allowed}; there is U+{ord(match[0]):04X} at index {match.start()}"
        )
        yield FieldError(where, "not_allowed", message)


def check_note(note: str | None) -> None:
    """Raise `InvalidInput` for a note with control characters."""
    for problem in validate_prose("/note", note or ""):
        raise InvalidInput(problem.message, [problem])


class JsonObjectReader:
    """A JSON object that is being read.

    Each method returns the value of a field and records the problems of that field.

    A field that is absent, null or invalid has its default. `finish` raises `InvalidInput` with all recorded problems
    and with the fields that no method has read.
    """

    def __init__(self, value: object, where: str) -> None:
        self.where = where
        self.problems: list[FieldError] = []
        self._known_names: set[str] = set()
        self._fields: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        self._is_object = isinstance(value, Mapping)
        if not self._is_object:
            self.problems.append(FieldError(where, "wrong_type", f"{_get_field_name(where)} must be a JSON object"))

    def get_value(self, name: str) -> Any:
        """Return the unchecked value of a field; None if the field is absent."""
        self._known_names.add(name)
        return self._fields.get(name)

    def add_problem(self, name: str, code: str, message: str) -> None:
        """Record a problem of a field, or of a value inside that field (`days/0`)."""
        self.problems.append(FieldError(self.where + format_pointer(*name.split("/")), code, message))

    def get_choice(self, name: str, allowed: Collection[str], default: str) -> str:
        """Return one of the allowed words."""
        value = self.get_value(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in allowed:
            self.add_problem(name, "not_allowed", f"{name} must be one of {', '.join(allowed)}")
            return default
        return value

    def get_integer(self, name: str, minimum: int, maximum: int, default: int | None = None) -> int | None:
        """Return a JSON integer within these bounds."""
        value = self.get_value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.add_problem(name, "wrong_type", f"{name} must be an integer")
        elif not minimum <= value <= maximum:
            self.add_problem(name, "not_allowed", f"{name} must be {minimum} to {maximum}")
        else:
            return value
        return default

    def get_number(self, name: str, minimum: float, maximum: float, default: float | None = None) -> float | None:
        """Return a JSON number within these bounds."""
        value = self.get_value(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.add_problem(name, "wrong_type", f"{name} must be a number")
        elif not minimum <= value <= maximum:
            self.add_problem(
                name, "not_allowed", f"{name} must be {_format_number(minimum)} to {_format_number(maximum)}"
            )
        else:
            return float(value)
        return default

    def get_seconds(self, name: str, minimum: float, maximum: float, default: float | None = None) -> float | None:
        """Return a duration within these bounds (s), given as a number or in ISO 8601."""
        value = self.get_value(name)
        return default if value is None else self._parse_seconds(name, value, minimum, maximum, default)

    def get_durations(self, name: str, minimum: float, maximum: float, max_count: int) -> tuple[float, ...] | None:
        """Return a list of 1 to `max_count` durations (s)."""
        values = self.get_value(name)
        if values is None:
            return None
        if not isinstance(values, list) or not 0 < len(values) <= max_count:
            self.add_problem(name, "wrong_type", f"{name} must be a list of 1 to {max_count} durations")
            return None
        all_seconds = [
            self._parse_seconds(f"{name}/{at}", value, minimum, maximum, None) for at, value in enumerate(values)
        ]
        return tuple(seconds for seconds in all_seconds if seconds is not None)

    def get_boolean(self, name: str, default: bool) -> bool:
        """Return true or false."""
        value = self.get_value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.add_problem(name, "wrong_type", f"{name} must be true or false")
            return default
        return value

    def get_text(self, name: str, max_length: int, default: str | None = None) -> str | None:
        """Return a text of 1 to `max_length` printable characters."""
        value = self.get_value(name)
        if value is None:
            return default
        if not isinstance(value, str) or not (0 < len(value) <= max_length and value.isprintable()):
            self.add_problem(name, "wrong_type", f"{name} must be a text of 1 to {max_length} printable characters")
            return default
        return value

    def get_texts(self, name: str, max_length: int, max_count: int) -> tuple[str, ...]:
        """Return a list of at most `max_count` texts."""
        texts = self.get_value(name)
        if texts is None:
            return ()
        fits = isinstance(texts, list) and len(texts) <= max_count
        if not fits or any(not isinstance(text, str) or not 0 < len(text) <= max_length for text in texts):
            message = f"{name} must be a list of at most {max_count} texts of 1 to {max_length} characters"
            self.add_problem(name, "wrong_type", message)
            return ()
        return tuple(texts)

    def require(self, *names: str) -> None:
        """Record a problem for each of these fields that is absent or null."""
        for name in names:
            if self._fields.get(name) is None and not any(problem.pointer == self.where for problem in self.problems):
                self.add_problem(name, "missing", f"{name} is required")

    def finish(self) -> None:
        """Raise `InvalidInput` if there are problems."""
        problems = [*self.problems, *self._find_unknown_fields()]
        if not self._is_object and self._known_names:  # The names of the fields are complete only now.
            message = f"{problems[0].message} with {', '.join(sorted(self._known_names))}"
            problems[0] = dataclasses.replace(problems[0], message=message)
        if problems:
            raise InvalidInput("; ".join(problem.message for problem in problems), problems)

    def _find_unknown_fields(self) -> Iterator[FieldError]:
        known_names = ", ".join(sorted(self._known_names))
        for name in self._fields:
            if name not in self._known_names:
                place = self.where + format_pointer(str(name))
                yield FieldError(place, "unknown_field", f"{name} is unknown; valid fields are: {known_names}")

    def _parse_seconds(
        self, name: str, value: Any, lowest: float, highest: float, default: float | None
    ) -> float | None:
        place = self.where + "/" + name
        try:
            read = durations.parse(value)
        except ValueError as error:
            self.problems.append(FieldError(place, "wrong_type", f"{name} {error}"))
            return default
        if not lowest <= read <= highest:
            message = (
                f"{name} must be {_format_number(lowest)} to {_format_number(highest)} seconds{_format_days(highest)}"
            )
            self.problems.append(FieldError(place, "not_allowed", message))
            return default
        return read


def merge_problems(reader: JsonObjectReader, inner: JsonObjectReader) -> None:
    """Finish the reader of an inner object, and add its problems to those of `reader`."""
    try:
        inner.finish()
    except InvalidInput as error:
        reader.problems.extend(error.errors)


def _get_field_name(where: str) -> str:
    return where.rpartition("/")[2] or "the body"


def _format_number(number: float) -> str:
    """Return the number without an exponent, because 3.1e+08 is hard to read."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def _format_days(seconds: float) -> str:
    days = seconds / _DAY
    return f" ({int(days)} days)" if days > 1 and days == int(days) else ""
