"""Content lines of iCalendar files (RFC 5545, section 3.1): bytes are unfolded, decoded, and parsed to components.

The cost is bounded before parsing: first by bytes, then by lines. Unsupported properties are skipped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobworker.domain.errors import FieldError, InvalidInput

#: Maximum size of a file (bytes): 1,000 events as calendar programs write them, of 500 bytes each.
MAX_FILE_BYTES = 512 * 1024

#: Maximum number of lines of a file; a calendar program writes at least 5 for each event, most longer than 20 bytes.
MAX_LINES = 25_000

#: Maximum number of events and other components in the calendars of a file.
MAX_EVENTS = 2000

#: Maximum number of occurrences that are computed for a file; a calendar holds no more than a quarter of them.
MAX_OCCURRENCES = 16_000

#: Maximum number of days that are evaluated for the rules and the long events of a file; one takes 2 µs.
MAX_DAYS = 24_000

#: Maximum number of computed offset changes, for all time zones that the file defines.
MAX_OFFSET_CHANGES = 1000

#: Maximum nesting. RFC 5545 nests three deep: VCALENDAR, VEVENT, VALARM.
_MAX_DEPTH = 8

#: Maximum length of a quotation in an error message (characters).
_MAX_QUOTED_LENGTH = 60

#: Supported properties of each component. Other components are skipped; `_IDENTIFYING_PROPERTIES` name them in reports.
_IDENTIFYING_PROPERTIES = frozenset({"UID", "SUMMARY"})
_SUPPORTED_PROPERTIES: Mapping[str, frozenset[str]] = {
    "VCALENDAR": frozenset({"VERSION", "CALSCALE", "METHOD", "X-WR-TIMEZONE"}),
    "VEVENT": _IDENTIFYING_PROPERTIES
    | {"DTSTART", "DTEND", "DURATION", "RRULE", "EXRULE", "RDATE", "EXDATE", "RECURRENCE-ID", "SEQUENCE", "STATUS"}
    | {"TRANSP", "X-MICROSOFT-CDO-ALLDAYEVENT", "X-MICROSOFT-CDO-BUSYSTATUS"},
    "VTIMEZONE": frozenset({"TZID", "X-LIC-LOCATION"}),
    "STANDARD": frozenset({"DTSTART", "TZOFFSETFROM", "TZOFFSETTO", "RRULE", "RDATE"}),
    "DAYLIGHT": frozenset({"DTSTART", "TZOFFSETFROM", "TZOFFSETTO", "RRULE", "RDATE"}),
    "VALARM": frozenset(),
}

_NAME = re.compile(r"([A-Za-z0-9_.-]+)[;:]")
_LINE = re.compile(r'[A-Za-z0-9-]++((?:;[A-Za-z0-9-]++=(?:"[^"]*+"|[^";:]++)*+)*+):(.*)', re.DOTALL)
_PARAMETER = re.compile(r';([A-Za-z0-9-]++)=((?:"[^"]*+"|[^";:]++)*+)')
_UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"B\0", b"\0B")


class ICalendarTooLarge(Exception):
    """Error for a file that would take too long to read; the message states the reason."""


@dataclass(slots=True)
class ParsingEffort:
    """Counters of the work for one file. The work is bounded, because a request waits for it."""

    occurrences: int = 0
    days: float = 0
    changes: int = 0

    def spend(self, occurrences: int, days: float, changes: int = 0) -> None:
        """Add to the counters. Raises `ICalendarTooLarge` before a maximum is exceeded."""
        self.occurrences += occurrences
        self.days += days
        self.changes += changes
        if self.occurrences > MAX_OCCURRENCES:
            raise ICalendarTooLarge(f"the file's events occur more than {MAX_OCCURRENCES} times")
        if self.days > MAX_DAYS:
            raise ICalendarTooLarge(f"the rules of its events have to look at more than {MAX_DAYS} days in sum")
        if self.changes > MAX_OFFSET_CHANGES:
            raise ICalendarTooLarge(
                f"the time zones that it defines change their offset more than {MAX_OFFSET_CHANGES} times"
            )


@dataclass(frozen=True, slots=True)
class ICalendarProperty:
    """A content line: its unparsed value, and its parameters without quotation marks."""

    name: str
    value: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ICalendarComponent:
    """The properties and components between BEGIN and END. `problems` are lines that cannot be parsed."""

    name: str
    properties: dict[str, list[ICalendarProperty]] = field(default_factory=dict)
    parts: list["ICalendarComponent"] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def get_properties(self, name: str) -> list[ICalendarProperty]:
        """Return the properties of this name."""
        return self.properties.get(name, [])

    def get_property(self, name: str) -> ICalendarProperty | None:
        """Return the property of this name. Raises `ValueError` if the property is repeated."""
        properties = self.get_properties(name)
        if len(properties) > 1:
            raise ValueError(f"{name} is present {len(properties)} times; it may be present once")
        return properties[0] if properties else None

    def get_text(self, name: str) -> str:
        """Return the first value of this name in capital letters; an empty text if the property is absent."""
        properties = self.get_properties(name)
        return properties[0].value.strip().upper() if properties else ""


def build_file_error(message: str) -> InvalidInput:
    """Return the error for a file that cannot be read at all."""
    return InvalidInput(message, [FieldError("", "bad_icalendar", message)])


def parse_calendars(file: bytes) -> list[ICalendarComponent]:
    """Return the VCALENDAR objects of a file. Raises `InvalidInput` for another format or a file that is too large."""
    lines = _unfold(file)
    root = ICalendarComponent("")
    open_components = [root]
    events = 0
    for line in lines:
        matched = _NAME.match(line)
        name = matched[1].upper() if matched else ""
        if name == "BEGIN":
            events += _open_component(line, open_components)
            if events > MAX_EVENTS:
                raise build_file_error(f"the file has more than {MAX_EVENTS} events, tasks and the like; split it")
        elif name == "END":
            _close_component(line, open_components)
        else:
            _add_property(line, name, open_components[-1])
    if len(open_components) > 1:
        raise build_file_error(f"the file is cut off: END:{open_components[-1].name} is missing")
    return root.parts


def _unfold(file: bytes) -> list[str]:
    """Return the lines of a file. A fold may split a character, so bytes are joined before they are decoded."""
    if len(file) > MAX_FILE_BYTES:
        raise build_file_error(f"the file has {len(file)} bytes; at most {MAX_FILE_BYTES} are read: split it")
    if file.startswith(_UTF_16):
        raise build_file_error("the file is UTF-16 text; iCalendar files are UTF-8: save it as UTF-8")
    breaks = file.count(b"\n") + file.count(b"\r") - file.count(b"\r\n")
    if breaks > MAX_LINES:
        raise build_file_error(f"the file has {breaks} lines; at most {MAX_LINES} are read: split it")
    # Lines end with CRLF, LF or CR, and some programs write empty ones.
    unfolded = re.sub(rb"\n[ \t]", b"", re.sub(rb"[\r\n]+", b"\n", file.removeprefix(b"\xef\xbb\xbf")))
    try:
        lines = [line for line in unfolded.decode().split("\n") if line and not line.isspace()]
    except UnicodeDecodeError as error:
        at = unfolded.count(b"\n", 0, error.start) + 1
        raise build_file_error(
            f"the file is not UTF-8 text: line {at} (unfolded) has an invalid byte; save it as UTF-8"
        ) from None
    if not lines or lines[0].strip().upper() != "BEGIN:VCALENDAR":
        raise build_file_error("this is not an iCalendar file: it must begin with BEGIN:VCALENDAR")
    return lines


def _open_component(line: str, open_components: list[ICalendarComponent]) -> bool:
    """Begin a component. Returns whether the component is directly in a VCALENDAR, as events are."""
    outer, inner = open_components[-1], ICalendarComponent(line[len("BEGIN:") :].strip().upper())
    place = {"VCALENDAR": "", "VEVENT": "VCALENDAR"}.get(inner.name, outer.name or "VCALENDAR")
    if outer.name != place:
        right = "VCALENDAR is outermost, and events are directly in it"
        raise build_file_error(f"{quote_text(line)} inside of {outer.name or 'no calendar'}; {right}")
    if len(open_components) > _MAX_DEPTH:
        raise build_file_error(f"components are nested more than {_MAX_DEPTH} deep, at {quote_text(line)}")
    outer.parts.append(inner)
    open_components.append(inner)
    return outer.name == "VCALENDAR"


def _close_component(line: str, open_components: list[ICalendarComponent]) -> None:
    name = line[len("END:") :].strip().upper()
    if open_components[-1].name != name or not name:
        raise build_file_error(
            f"{quote_text(line)} where {open_components[-1].name or 'nothing'} is open; each BEGIN needs its END"
        )
    open_components.pop()


def _add_property(line: str, name: str, component: ICalendarComponent) -> None:
    """Add a property to the component if the property is supported."""
    if not component.name or (not name and component.name == "VCALENDAR"):
        raise build_file_error(f"this is not an iCalendar file: {quote_text(line)} is not a line of a calendar")
    supported_names = _SUPPORTED_PROPERTIES.get(component.name, _IDENTIFYING_PROPERTIES)
    if name and name not in supported_names:
        return
    match = _LINE.match(line) if name else None
    if match is not None:
        parameters = {key.upper(): value.replace('"', "") for key, value in _PARAMETER.findall(match[1])}
        component.properties.setdefault(name, []).append(ICalendarProperty(name, match[2], parameters))
    elif supported_names and not component.problems:
        component.problems.append(f"{quote_text(line)} is not a line of the form NAME;PARAMETER=…:VALUE")


def quote_text(text: str) -> str:
    """Return a part of the file as messages quote it: printable, and short."""
    shown = text if len(text) <= _MAX_QUOTED_LENGTH else text[:_MAX_QUOTED_LENGTH] + "…"
    return repr(shown)
