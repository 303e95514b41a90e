"""Problems of cron expressions: the wrong field, the problem, and the accepted values.

cronsim parses expressions, but reports only the name of the field for an invalid one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import cronsim

from jobworker.domain.schedules.rules.cron import NICKNAMES, check_expression, expand_nickname

_TERM = re.compile(r"(?P<range>[^/]*)(?:/(?P<step>.*))?\Z")
_DIGITS = re.compile(r"\d{1,9}\Z", re.ASCII)
_NTH = re.compile(r"(?P<day>[^#]*)#(?P<nth>.*)\Z")

#: Maximum number of Mondays, or other days of the week, in a month.
_MAX_WEEKDAYS_IN_MONTH = 5


@dataclass(frozen=True, slots=True)
class _Field:
    """A field: its numbers from `lowest` to `highest`, and `names` for them in that order."""

    name: str
    lowest: int
    highest: int
    names: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The accepted terms."""
        names = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        also = {"day of month": ", L or LW", "day of week": ", 5L or 5#2"}.get(self.name, "")
        return f"{self.lowest} to {self.highest}{names}{also}"

    @property
    def max_step(self) -> int:
        """The maximum step: a longer one would leave only the first number. Sunday is both 0 and 7."""
        return self.highest - self.lowest - (self.name == "day of week")

    def parse_number(self, text: str) -> int | None:
        """Return a number of this field, given as digits or as a name; None if invalid."""
        if text in self.names:
            return self.lowest + self.names.index(text)
        number = int(text) if _DIGITS.match(text) else None
        return number if number is not None and self.lowest <= number <= self.highest else None


_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")),
    _Field("day of week", 0, 7, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")),
)


def describe_problem(expression: str) -> str | None:
    """Return the problem of an expression, as the rest of a sentence that begins with the expression; None if valid."""
    fields = expand_nickname(expression).split()
    if expression.strip().startswith("@") and len(fields) == 1:
        return f"is not known; the names are {', '.join(NICKNAMES)}, and run_at_start is for the start of the system"
    if len(fields) not in (5, 6):
        return (
            f"has {len(fields)} fields; a cron expression has 5 (minute, hour, day of month, month, day of week), "
            "or 6 with the seconds first"
        )
    problems = [
        problem
        for field, text in zip(_FIELDS[-len(fields) :], fields, strict=True)
        for problem in _describe_field_problems(field, text)
    ]
    if problems:
        return f"is not a cron expression: {'; '.join(problems)}"
    try:
        check_expression(expression)
    except cronsim.CronSimError:  # The only remaining problem.
        return "names a day that none of its months has"
    return None


def _describe_field_problems(field: _Field, text: str) -> Iterator[str]:
    for term in text.split(","):
        wrong = _describe_term_problem(field, term.upper())
        if wrong:
            yield f"{field.name} {term!r} {wrong}" if term else f"{field.name} {text!r} {wrong}"


def _describe_term_problem(field: _Field, term: str) -> str | None:
    """Return the problem of one item of a list: `5`, `1-5`, `*/10`, `FRI#2`."""
    if _is_special(field, term):
        return None
    if not term:
        return "has an empty list item"
    hint = _find_dialect_hint(field, term)
    if hint:
        return hint
    match = _TERM.match(term)
    assert match is not None, "every text matches"
    step = match["step"]
    if step is not None and not (_DIGITS.match(step) and 1 <= int(step) <= field.max_step):
        return f"has a step that is not 1 to {field.max_step}"
    return None if match["range"] == "*" else _describe_range_problem(field, match["range"])


def _describe_range_problem(field: _Field, text: str) -> str | None:
    first, dash, last = text.partition("-")
    begin, end = field.parse_number(first), field.parse_number(last) if dash else None
    if begin is None or (dash and end is None):
        return f"is not {field.allowed}" + (
            "" if dash else f", a range such as {field.lowest}-{field.lowest + 4}, or *"
        )
    if end is not None and end < begin:
        return f"runs backwards; {_describe_wrapped_range(field, begin, end)}"
    return None


def _describe_wrapped_range(field: _Field, begin: int, end: int) -> str:
    """Return the correct form of a range that goes over the end of its field."""
    highest = field.highest
    if field.name == "day of week" and end == 0:
        return f"Sunday is 7, too: write {begin}-7"
    return f"write {begin}-{highest},{field.lowest}-{end} if it goes over the end, or {end}-{begin}"


def _is_special(field: _Field, term: str) -> bool:
    if field.name == "day of month":
        return term in ("L", "LW")
    if field.name != "day of week":
        return False
    match = _NTH.match(term)
    if match:
        nth = match["nth"]
        return (
            field.parse_number(match["day"]) is not None
            and _DIGITS.match(nth) is not None
            and 1 <= int(nth) <= _MAX_WEEKDAYS_IN_MONTH
        )
    return term.endswith("L") and term[:-1] not in field.names and field.parse_number(term[:-1]) is not None


def _find_dialect_hint(field: _Field, term: str) -> str | None:
    """Return a hint for a notation of another cron dialect."""
    if "?" in term:
        return "is not supported; write * instead of ?"
    if term.startswith("H") and not field.names:
        return "is not supported; write a number, and set the schedule's spread to distribute start times"
    marks = _DIALECT_HINTS.get(field.name, {})
    return next((hint for mark, hint in marks.items() if mark in term), None)


#: Hints for marks in these fields, for notations that are invalid here.
_DIALECT_HINTS = {
    "day of month": {
        "W": "is not supported; LW (the last weekday of the month) is known, the weekday nearest to a day is not",
        "L": "is not supported; L is the last day of the month, and others are not counted from it",
    },
    "day of week": {
        "#": f"is not known; write FRI#2 for the second Friday, with 1 to {_MAX_WEEKDAYS_IN_MONTH} behind the #",
        "L": "is not known; write 5L for the last Friday of the month, with a number of 0 to 7 before the L",
    },
}
