"""Lines, components and calendars of iCalendar files: accepted in every legal form, or refused by name."""

import datetime as dt

import pytest

from jobworker.domain.calendars.icalendar.parser import parse
from jobworker.domain.errors import InvalidInput
from tests.unit.icalendar_events import (
    DAY,
    END,
    FILES,
    FIRST,
    HOUR,
    format_contents,
    list_reasons,
    make_calendar,
    make_event,
    read_contents,
)


def test_line_fold_inside_character_joined() -> None:
    contents = parse((FILES / "folded_utf8.ics").read_bytes(), None, FIRST, END)
    assert contents.days == {dt.date(2026, 12, 24): "Betriebsruhe für alle, auch Büro"}


@pytest.mark.parametrize("breaks", [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_breaks_and_byte_order_mark_accepted(breaks: bytes, mark: bytes) -> None:
    file = make_calendar(make_event(f"{DAY}\nX-LONG:1\n 2\n\t3\nEXDATE;VAL\n UE=DATE:20260401")).replace(
        b"\r\n", breaks
    )
    assert format_contents(parse(mark + file, None, FIRST, END)) == ["03-02"]


def test_non_event_components_listed_as_left_out() -> None:
    component = "BEGIN:{0}\nUID:t\nSUMMARY:Do it\nDTSTART:broken\nEND:{0}\n"
    contents = read_contents(*[component.format(kind) for kind in ("VTODO", "VJOURNAL", "VFREEBUSY")], make_event(DAY))
    assert (format_contents(contents), contents.events) == (["03-02"], 1)
    assert list_reasons(contents) == [
        ("Do it", f"it is a {kind}; events (VEVENT) are read") for kind in ("VTODO", "VJOURNAL", "VFREEBUSY")
    ]


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("PUBLISH", None),
        ("REQUEST", None),
        ("CANCEL", "it is cancelled"),
        ("REPLY", "METHOD:REPLY makes it an answer to an invitation"),
    ],
)
def test_calendar_method_decides_inclusion(method: str, reason: str | None) -> None:
    contents = read_contents(f"METHOD:{method}\n", make_event(DAY))
    assert (format_contents(contents), list_reasons(contents)) == (([], [("a", reason)]) if reason else (["03-02"], []))


def test_several_calendars_in_file_merged() -> None:
    head = "X-WR-TIMEZONE:Europe/Berlin\nX-WR-CALNAME:One\n"
    file = make_calendar(head, make_event(HOUR)) + make_calendar(
        head, make_event(DAY, "v"), make_event("DTSTART:20260303T080000Z\nDURATION:PT1H", "w")
    )
    contents = parse(file, None, FIRST, END)
    assert format_contents(contents) == ["03-02", "03-02 09:00-10:00", "03-03 09:00-10:00"]
    assert (contents.zone, contents.events) == ("Europe/Berlin", 3)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            make_calendar(make_event(DAY)).decode().encode("utf-16"),
            "the file is UTF-16 text; iCalendar files are UTF-8: save it as UTF-8",
        ),
        (make_calendar(make_event(DAY)).decode().encode("utf-16-be"), "UTF-16"),
        (make_calendar(make_event(DAY, name="für")).decode().encode("latin-1"), "not UTF-8 text: line 5"),
        (
            make_calendar("VERSION:1.0\n").replace(b"VERSION:2.0\r\n", b""),
            "VERSION is '1.0'; export it as iCalendar, VERSION:2.0",
        ),
        (make_calendar("CALSCALE:HEBREW\n"), "CALSCALE is 'HEBREW'; only GREGORIAN is read"),
        (make_calendar("BEGIN:VEVENT\n"), "'END:VCALENDAR' where VEVENT is open; each BEGIN needs its END"),
        (make_calendar("END:VEVENT\n"), "'END:VEVENT' where VCALENDAR is open"),
        (
            make_calendar("BEGIN:X-A\n", make_event(DAY), "END:X-A\n"),
            "'BEGIN:VEVENT' inside of X-A; VCALENDAR is outermost",
        ),
        (make_calendar("BEGIN:VCALENDAR\nEND:VCALENDAR\n"), "'BEGIN:VCALENDAR' inside of VCALENDAR"),
        (make_calendar() + b"more\n", "'more' is not a line of a calendar"),
        (make_calendar("BEGIN:X\n" * 9), "nested more than 8 deep"),
    ],
)
def test_invalid_file_rejected(file: bytes, says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(file, None, FIRST, END)
    assert says in str(raised.value)
