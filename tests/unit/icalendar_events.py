"""Events of iCalendar files, and short forms of what is read from them."""

import datetime as dt
import pathlib

import pytest

from jobworker.domain.calendars.icalendar.parser import ICalendarContents, parse
from jobworker.domain.errors import InvalidInput

FIRST, END = dt.date(2026, 1, 1), dt.date(2027, 1, 1)
FILES = pathlib.Path(__file__).parent / "ics"
BERLIN = """BEGIN:VTIMEZONE
TZID:{}
BEGIN:STANDARD
DTSTART:16010101T030000
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10
END:STANDARD
BEGIN:DAYLIGHT
DTSTART:16010101T020000
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
RRULE:FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3
END:DAYLIGHT
END:VTIMEZONE
"""
DAY = "DTSTART;VALUE=DATE:20260302"
HOUR = "DTSTART;TZID=Europe/Berlin:20260302T090000\nDTEND;TZID=Europe/Berlin:20260302T100000"


def make_event(lines: str, uid: str = "u", name: str = "a") -> str:
    """Return a VEVENT component with these lines."""
    return f"BEGIN:VEVENT\nUID:{uid}\nSUMMARY:{name}\n{lines}\nEND:VEVENT\n"


def make_calendar(*parts: str) -> bytes:
    """Return a file whose calendar has these components and properties."""
    return f"BEGIN:VCALENDAR\nVERSION:2.0\n{''.join(parts)}END:VCALENDAR\n".replace("\n", "\r\n").encode()


def read_contents(*parts: str, zone: str | None = None, include_free: bool = False) -> ICalendarContents:
    """Parse a calendar of these parts."""
    return parse(make_calendar(*parts), zone, FIRST, END, include_free)


def format_contents(contents: ICalendarContents) -> list[str]:
    """Return days as `03-02` and windows as `03-02 09:00-10:00`."""
    days = [f"{day:%m-%d}" for day in contents.days]
    return days + [f"{window.begin:%m-%d %H:%M}-{window.end:%H:%M}" for window in contents.windows]


def list_refused(*parts: str) -> list[str]:
    """Return the messages of the problems for which a calendar of these parts is refused."""
    with pytest.raises(InvalidInput) as raised:
        read_contents(*parts)
    return [problem.message for problem in raised.value.errors]


def list_reasons(contents: ICalendarContents) -> list[tuple[str, str]]:
    """Return (name, reason) of each component that was left out."""
    return [(component.name, component.reason) for component in contents.left_out]
