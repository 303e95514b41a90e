"""Reader of JSON objects from clients: strict, and with all problems reported at once."""

import dataclasses
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from jobworker.domain import durations
from jobworker.domain.errors import FieldError, InvalidInput, format_pointer

_DAY = 24 * 3600.0

#: Control characters except line feed and tab, other line separators, and characters that set the text direction.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def validate_prose(where: str, text: str) -> Iterator[FieldError]:
    """Yield a problem if a text for people contains control characters; `where` points to the text."""
    if found := _CONTROL_CHARACTERS.search(text):
        allowed = "no control characters but line feed and tab, and none that set the direction of text"
        message = (
            f"{_get_field_name(where)} must have {allowed}; there is U+{ord(found[0]):04X} at index {found.start()}"
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
        self._asked: set[str] = set()
        self._given: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        self._is_object = isinstance(value, Mapping)
        if not self._is_object:
            self.problems.append(FieldError(where, "wrong_type", f"{_get_field_name(where)} must be a JSON object"))

    def get_value(self, name: str) -> Any:
        """Return the unchecked value of a field; None if the field is absent."""
        self._asked.add(name)
        return self._given.get(name)

    def add_problem(self, name: str, code: str, message: str) -> None:
        """Record a problem of a field, or of a value inside that field (`days/0`)."""
        self.problems.append(FieldError(self.where + format_pointer(*name.split("/")), code, message))

    def get_choice(self, name: str, allowed: Collection[str], default: str) -> str:
        """Return one of the allowed words."""
        found = self.get_value(name)
        if found is None:
            return default
        if not isinstance(found, str) or found not in allowed:
            self.add_problem(name, "not_allowed", f"{name} must be one of {', '.join(allowed)}")
            return default
        return found

    def get_integer(self, name: str, minimum: int, maximum: int, default: int | None = None) -> int | None:
        """Return a JSON integer within these bounds."""
        found = self.get_value(name)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, int):
            self.add_problem(name, "wrong_type", f"{name} must be an integer")
        elif not minimum <= found <= maximum:
            self.add_problem(name, "not_allowed", f"{name} must be {minimum} to {maximum}")
        else:
            return found
        return default

    def get_number(self, name: str, minimum: float, maximum: float, default: float | None = None) -> float | None:
        """Return a JSON number within these bounds."""
        found = self.get_value(name)
        if found is None:
            return default
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            self.add_problem(name, "wrong_type", f"{name} must be a number")
        elif not minimum <= found <= maximum:
            self.add_problem(
                name, "not_allowed", f"{name} must be {_format_number(minimum)} to {_format_number(maximum)}"
            )
        else:
            return float(found)
        return default

    def get_seconds(self, name: str, minimum: float, maximum: float, default: float | None = None) -> float | None:
        """Return a duration within these bounds (s), given as a number or in ISO 8601."""
        found = self.get_value(name)
        return default if found is None else self._parse_seconds(name, found, minimum, maximum, default)

    def get_durations(self, name: str, minimum: float, maximum: float, max_count: int) -> tuple[float, ...] | None:
        """Return a list of 1 to `max_count` durations (s)."""
        found = self.get_value(name)
        if found is None:
            return None
        if not isinstance(found, list) or not 0 < len(found) <= max_count:
            self.add_problem(name, "wrong_type", f"{name} must be a list of 1 to {max_count} durations")
            return None
        read = [self._parse_seconds(f"{name}/{at}", each, minimum, maximum, None) for at, each in enumerate(found)]
        return tuple(each for each in read if each is not None)

    def get_boolean(self, name: str, default: bool) -> bool:
        """Return true or false."""
        found = self.get_value(name)
        if found is None:
            return default
        if not isinstance(found, bool):
            self.add_problem(name, "wrong_type", f"{name} must be true or false")
            return default
        return found

    def get_text(self, name: str, max_length: int, default: str | None = None) -> str | None:
        """Return a text of 1 to `max_length` printable characters."""
        found = self.get_value(name)
        if found is None:
            return default
        if not isinstance(found, str) or not (0 < len(found) <= max_length and found.isprintable()):
            self.add_problem(name, "wrong_type", f"{name} must be a text of 1 to {max_length} printable characters")
            return default
        return found

    def get_texts(self, name: str, max_length: int, max_count: int) -> tuple[str, ...]:
        """Return a list of at most `max_count` texts."""
        found = self.get_value(name)
        if found is None:
            return ()
        fits = isinstance(found, list) and len(found) <= max_count
        if not fits or any(not isinstance(each, str) or not 0 < len(each) <= max_length for each in found):
            message = f"{name} must be a list of at most {max_count} texts of 1 to {max_length} characters"
            self.add_problem(name, "wrong_type", message)
            return ()
        return tuple(found)

    def require(self, *names: str) -> None:
        """Record a problem for each of these fields that is absent or null."""
        for name in names:
            if self._given.get(name) is None and not any(each.pointer == self.where for each in self.problems):
                self.add_problem(name, "missing", f"{name} is required")

    def finish(self) -> None:
        """Raise `InvalidInput` if there are problems."""
        problems = [*self.problems, *self._find_unknown_fields()]
        if not self._is_object and self._asked:  # The names of the fields are complete only now.
            message = f"{problems[0].message} with {', '.join(sorted(self._asked))}"
            problems[0] = dataclasses.replace(problems[0], message=message)
        if problems:
            raise InvalidInput("; ".join(problem.message for problem in problems), problems)

    def _find_unknown_fields(self) -> Iterator[FieldError]:
        known = ", ".join(sorted(self._asked))
        for name in self._given:
            if name not in self._asked:
                place = self.where + format_pointer(str(name))
                yield FieldError(place, "unknown_field", f"{name} is not known here; known are: {known}")

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


def collect_problems(errors: Iterable[InvalidInput]) -> list[FieldError]:
    """Return the problems of all these errors."""
    return [problem for error in errors for problem in error.errors]


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
