"""Parsing of iCalendar files: the days and windows of their events, and the problems of files that cannot be read."""

import datetime as dt

import pytest

from jobworker.domain.calendars.icalendar.content_lines import MAX_EVENTS, MAX_FILE_BYTES, MAX_LINES
from jobworker.domain.calendars.icalendar.parser import ICalendarContents, parse
from jobworker.domain.errors import FieldError, InvalidInput
from tests.unit.icalendar_files import APPLE, GOOGLE, OUTLOOK

FIRST, END = dt.date(2026, 1, 1), dt.date(2027, 1, 1)


def read_contents(
    text: str, zone: str | None = None, end: dt.date = END, include_free: bool = False
) -> ICalendarContents:
    return parse(text.replace("\n", "\r\n").encode(), zone, FIRST, end, include_free)


def format_contents(contents: ICalendarContents) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    days = {day.isoformat(): name for day, name in contents.days.items()}
    windows = [
        (window.begin.isoformat(" ", "minutes"), window.end.isoformat(" ", "minutes"), window.name)
        for window in contents.windows
    ]
    return days, windows


def make_file(*lines: str, event_lines: str = "") -> str:
    """Return a file with one event of these lines."""
    event = "\n".join(["BEGIN:VEVENT", "UID:u", "SUMMARY:Event", *lines, "END:VEVENT"])
    return f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\n{event_lines}{event}\nEND:VCALENDAR\n"


def list_problems(text: str, zone: str | None = None) -> list[FieldError]:
    with pytest.raises(InvalidInput) as raised:
        read_contents(text, zone)
    return list(raised.value.errors)


def test_google_calendar_file_parsed() -> None:
    contents = read_contents(GOOGLE, include_free=True)
    assert format_contents(contents) == (
        dict.fromkeys(("2026-05-04", "2026-05-05", "2026-05-06"), "Company offsite, whole team"),
        [
            ("2026-03-16 02:00", "2026-03-16 04:00", "Maintenance"),
            ("2026-03-30 02:00", "2026-03-30 04:00", "Maintenance"),
            ("2026-03-31 22:00", "2026-04-01 06:00", "Quarter end"),
            ("2026-04-07 03:00", "2026-04-07 06:00", "Maintenance (moved)"),
        ],
    )
    assert (contents.zone, contents.events) == ("Europe/Berlin", 5)
    assert [(component.name, component.reason) for component in contents.left_out] == [
        ("Not any more", "it is cancelled")
    ]
    blocking = read_contents(GOOGLE)
    assert (blocking.days, blocking.windows) == ({}, contents.windows)
    assert (blocking.left_out[0].name, blocking.left_out[0].reason) == (
        "Company offsite, whole team",
        "it is free time (TRANSP:TRANSPARENT); include_free=true imports it",
    )


def test_outlook_file_parsed() -> None:
    contents = read_contents(OUTLOOK)
    assert format_contents(contents) == (
        {"2026-01-06": "Bridging day"},
        [
            ("2026-01-30 22:30", "2026-01-31 02:30", "Books close"),
            ("2026-02-27 22:30", "2026-02-28 02:30", "Books close"),
            ("2026-03-27 22:30", "2026-03-28 02:30", "Books close"),
        ],
    )
    assert (contents.zone, contents.left_out) == ("Europe/Berlin", [])


def test_apple_calendar_file_parsed() -> None:
    contents = read_contents(APPLE)
    days, windows = format_contents(contents)
    assert days == {"2026-11-27": "Black Friday 🛒"}
    # The clock is set forward during the first window (at 2 o'clock), which lasts exactly three hours.
    assert windows == [
        ("2026-03-08 01:30", "2026-03-08 05:30", "Stock count"),
        ("2026-04-05 01:30", "2026-04-05 04:30", "Stock count"),
        ("2026-05-01 09:00", "2026-05-01 10:00", "Breakfast"),
    ]
    assert [(component.name, component.reason) for component in contents.left_out] == [
        ("Reminder", "it has no length: DTEND and DURATION are missing or zero"),
        ("Long ago", "nothing of it is from 2026-01-01 to 2027-01-01"),
    ]
    ten_years = read_contents(APPLE, end=dt.date(2036, 1, 1)).days
    assert [day.isoformat() for day in ten_years][:3] == ["2026-11-27", "2027-11-26", "2028-11-24"]
    assert len(ten_years) == 10


def test_window_times_converted_to_requested_zone() -> None:
    _, windows = format_contents(read_contents(GOOGLE, "Asia/Tokyo"))
    assert windows[2] == ("2026-04-01 05:00", "2026-04-01 13:00", "Quarter end")
    # Days and times without a zone do not depend on the requested zone.
    days, windows = format_contents(read_contents(APPLE, "Asia/Tokyo"))
    assert days == {"2026-11-27": "Black Friday 🛒"}
    assert ("2026-05-01 09:00", "2026-05-01 10:00", "Breakfast") in windows


def test_single_event_zone_becomes_calendar_zone() -> None:
    contents = read_contents(make_file("DTSTART;TZID=Asia/Tokyo:20260301T100000", "DTEND:20260301T030000Z"))
    assert format_contents(contents)[1] == [("2026-03-01 10:00", "2026-03-01 12:00", "Event")]
    assert contents.zone == "Asia/Tokyo"


def test_utc_times_without_calendar_zone_require_zone() -> None:
    utc = make_file("DTSTART:20260301T100000Z", "DTEND:20260301T120000Z")
    [problem] = list_problems(utc)
    assert (problem.pointer, problem.code) == ("zone", "missing")
    assert "such as Europe/Berlin" in problem.message
    assert format_contents(read_contents(utc, "Europe/Berlin"))[1] == [
        ("2026-03-01 11:00", "2026-03-01 13:00", "Event")
    ]
    unknown = make_file("DTSTART:20260301T100000Z", "DTEND:20260301T120000Z", event_lines="X-WR-TIMEZONE:Somewhere\n")
    assert list_problems(unknown)[0].pointer == "zone"
    assert read_contents(make_file("DTSTART:20260301T100000", "DTEND:20260301T120000")).zone is None


def test_vtimezone_of_file_used_as_zone() -> None:
    offsets = "TZOFFSETFROM:+0300\nTZOFFSETTO:+0300"
    standard = f"BEGIN:STANDARD\nDTSTART:19700101T000000\n{offsets}\nEND:STANDARD"
    zone = f"BEGIN:VTIMEZONE\nTZID:Ours\n{standard}\nEND:VTIMEZONE\n"
    text = make_file("DTSTART;TZID=Ours:20260301T100000", "DTEND;TZID=Ours:20260301T110000", event_lines=zone)
    assert read_contents(text).zone == "Ours"
    assert format_contents(read_contents(text))[1] == [("2026-03-01 10:00", "2026-03-01 11:00", "Event")]
    assert format_contents(read_contents(text, "UTC"))[1] == [("2026-03-01 07:00", "2026-03-01 08:00", "Event")]


@pytest.mark.parametrize(
    ("lines", "begins"),
    [
        (("RRULE:FREQ=DAILY;COUNT=3",), ["2026-02-27", "2026-02-28", "2026-03-01"]),
        (("RRULE:FREQ=DAILY;INTERVAL=2;UNTIL=20260303",), ["2026-02-27", "2026-03-01", "2026-03-03"]),
        (("RRULE:FREQ=DAILY;COUNT=4", "EXDATE;VALUE=DATE:20260228,20260301"), ["2026-02-27", "2026-03-02"]),
        (("RRULE:FREQ=DAILY;COUNT=4", "EXDATE:20260228T000000Z"), ["2026-02-27", "2026-03-01", "2026-03-02"]),
        (("RDATE;VALUE=DATE:20260401,20260501",), ["2026-02-27", "2026-04-01", "2026-05-01"]),
        (("RRULE:FREQ=YEARLY", "RRULE:FREQ=MONTHLY;COUNT=2"), ["2026-02-27", "2026-03-27"]),
        # DTSTART is the first occurrence even if the rule does not match it.
        (("RRULE:FREQ=WEEKLY;BYDAY=MO;UNTIL=20260310",), ["2026-02-27", "2026-03-02", "2026-03-09"]),
        (("RRULE:FREQ=MONTHLY;BYMONTHDAY=31;UNTIL=20260601T000000Z",), ["2026-02-27", "2026-03-31", "2026-05-31"]),
        (("RRULE:FREQ=YEARLY;UNTIL=99991231T235959Z",), ["2026-02-27"]),
        (("RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",), ["2026-02-27"]),
    ],
)
def test_recurrence_expanded_to_days(lines: tuple[str, ...], begins: list[str]) -> None:
    days, _ = format_contents(read_contents(make_file("DTSTART;VALUE=DATE:20260227", *lines)))
    assert list(days) == begins


@pytest.mark.parametrize("frequency", ["DAILY", "WEEKLY"])
@pytest.mark.parametrize("interval", [1, 3, 7])
def test_old_recurrence_keeps_its_interval(frequency: str, interval: int) -> None:
    lines = f"RRULE:FREQ={frequency};INTERVAL={interval}"
    old = read_contents(make_file("DTSTART;VALUE=DATE:19720105", lines)).days
    days = {"DAILY": 1, "WEEKLY": 7}[frequency] * interval
    start = dt.date(1972, 1, 5)
    year = [FIRST + dt.timedelta(days=number) for number in range(365)]
    assert list(old) == [day for day in year if (day - start).days % days == 0]


def test_windows_keep_local_time_across_dst_change() -> None:
    lines = ("DTSTART;TZID=Europe/Berlin:20260328T120000", "DTEND;TZID=Europe/Berlin:20260328T130000")
    _, windows = format_contents(read_contents(make_file(*lines, "RRULE:FREQ=DAILY;COUNT=3")))
    assert [begin for begin, _, _ in windows] == ["2026-03-28 12:00", "2026-03-29 12:00", "2026-03-30 12:00"]
    _, windows = format_contents(read_contents(make_file(*lines, "RRULE:FREQ=DAILY;COUNT=3"), "UTC"))
    assert [begin for begin, _, _ in windows] == ["2026-03-28 11:00", "2026-03-29 10:00", "2026-03-30 10:00"]


def test_latest_sequence_of_event_used() -> None:
    events = [
        f"BEGIN:VEVENT\nUID:u\nSEQUENCE:{sequence}\nSUMMARY:{name}\nDTSTART;VALUE=DATE:202603{day}\nEND:VEVENT"
        for sequence, name, day in ((1, "old", "01"), (3, "new", "02"), (2, "older", "03"))
    ]
    contents = read_contents("\n".join(["BEGIN:VCALENDAR", *events, "END:VCALENDAR", ""]))
    assert format_contents(contents)[0] == {"2026-03-02": "new"}
    assert [(component.name, component.reason) for component in contents.left_out] == [
        ("old", "the file has a later version of it"),
        ("older", "the file has a later version of it"),
    ]


def test_cancelled_occurrence_left_out() -> None:
    lines = ["UID:u", "RECURRENCE-ID;VALUE=DATE:20260302", "STATUS:CANCELLED", "DTSTART;VALUE=DATE:20260302"]
    cancelled = "\n".join(["BEGIN:VEVENT", *lines, "END:VEVENT", ""])
    text = make_file("DTSTART;VALUE=DATE:20260301", "RRULE:FREQ=DAILY;COUNT=3", event_lines=cancelled)
    assert list(format_contents(read_contents(text))[0]) == ["2026-03-01", "2026-03-03"]


def test_event_names_of_a_day_joined() -> None:
    other_event = "BEGIN:VEVENT\nUID:v\nSUMMARY:Other\nDTSTART;VALUE=DATE:20260301\nEND:VEVENT\n"
    assert format_contents(read_contents(make_file("DTSTART;VALUE=DATE:20260301", event_lines=other_event)))[0] == {
        "2026-03-01": "Other; Event"
    }


def test_event_cut_at_range_ends() -> None:
    days, _ = format_contents(read_contents(make_file("DTSTART;VALUE=DATE:20251230", "DTEND;VALUE=DATE:20260103")))
    assert list(days) == ["2026-01-01", "2026-01-02"]
    _, windows = format_contents(read_contents(make_file("DTSTART:20261231T220000", "DTEND:20270102T060000")))
    assert windows == [("2026-12-31 22:00", "2027-01-01 00:00", "Event")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it must begin with BEGIN:VCALENDAR"),
        ("name,date\nx,2026-01-01\n", "it must begin with BEGIN:VCALENDAR"),
        ("BEGIN:VCALENDAR\nVERSION:2.0\nBEGIN:VEVENT\n", "the file is cut off"),
        ("BEGIN:VCALENDAR\nsomething\nEND:VCALENDAR\n", "this is not an iCalendar file"),
        (make_file(), "event 'Event' (UID u): DTSTART is missing"),
        (make_file("DTSTART;VALUE=DATE:20260230"), "event 'Event' (UID u): DTSTART"),
        (make_file("DTSTART;VALUE=DATE:20260302", "DTEND;VALUE=DATE:20260301"), "DTEND is before DTSTART"),
        (make_file("DTSTART;VALUE=DATE:20260302", "DTEND:20260303T000000Z"), "must both be days, or both times"),
        (make_file("DTSTART;VALUE=DATE:00010101"), "DTSTART is not in 1900 to 2399"),
        (make_file("DTSTART;TZID=Nowhere:20260301T000000"), "time zone 'Nowhere' is not known"),
        (make_file("DTSTART:20260301T000000", "DURATION:P999999D"), "DURATION must be at most 3660 days"),
        (make_file("DTSTART:20260301T000000", "DURATION:PT1H", "RRULE:FREQ=SECONDLY"), "FREQ must be DAILY, WEEKLY"),
        (
            make_file("DTSTART:20260301T000000", "DURATION:PT1H", "RRULE:FREQ=DAILY;INTERVAL=0"),
            "RRULE: INTERVAL must be 1",
        ),
        (
            make_file("DTSTART:20260301T000000", "DURATION:PT1H", "RRULE:FREQ=DAILY;COUNT=999999"),
            "RRULE: COUNT must be",
        ),
        (make_file("DTSTART:20260301T000000", "DURATION:PT1H", "RRULE:FREQ=NEVER"), "RRULE"),
        (make_file("DTSTART:20260301T000000", "DURATION:PT1H", "RRULE:FREQ=DAILY;BYHOUR=1,2"), "repeats within a day"),
        (make_file("DTSTART:20260301T000000", "DURATION:PT1H", "RRULE:BYDAY=MO"), "RRULE"),
        (
            make_file("DTSTART:20260301T000000", "RECURRENCE-ID;RANGE=THISANDFUTURE:20260301T000000"),
            "RANGE=THISANDFUTURE needs the event that repeats",
        ),
    ],
)
def test_malformed_file_rejected_with_reason(text: str, says: str) -> None:
    [problem] = list_problems(text)
    assert (problem.pointer, problem.code) == ("", "bad_icalendar")
    assert says in problem.message


def test_binary_file_rejected() -> None:
    with pytest.raises(InvalidInput, match="not UTF-8 text"):
        parse(b"BEGIN:VCALENDAR\xff", None, FIRST, END)


def test_file_sizes_bounded() -> None:
    with pytest.raises(InvalidInput, match=f"at most {MAX_FILE_BYTES} are read"):
        parse(b"x" * (MAX_FILE_BYTES + 1), None, FIRST, END)
    event = "BEGIN:VEVENT\nDTSTART;VALUE=DATE:20260301\nEND:VEVENT\n"
    many = list_problems(f"BEGIN:VCALENDAR\n{event * (MAX_EVENTS + 1)}END:VCALENDAR")
    assert f"more than {MAX_EVENTS} events" in many[0].message
    lines = list_problems("BEGIN:VCALENDAR\n" + "X-A:1\n" * MAX_LINES + "END:VCALENDAR")
    assert f"has {MAX_LINES + 1} lines; at most {MAX_LINES}" in lines[0].message
    daily = make_file("DTSTART;VALUE=DATE:20260301", "RRULE:FREQ=DAILY")
    with pytest.raises(InvalidInput, match="more than 5000 days or windows"):
        read_contents(daily, end=dt.date(2046, 1, 1))
    broken = "BEGIN:VEVENT\nEND:VEVENT\n"
    assert len(list_problems(f"BEGIN:VCALENDAR\n{broken * 100}END:VCALENDAR")) == 20


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ["DTSTART;VALUE=DATE:20260301", "RRULE:FREQ=DAILY"],
            "look at more than 24000 days in sum (read from 2026-01-01 to",
        ),
        (["DTSTART;VALUE=DATE:19900301", "RRULE:FREQ=DAILY;COUNT=1000"], "occur more than 16000 times"),
        (["DTSTART;VALUE=DATE:19000301", "RRULE:FREQ=DAILY;INTERVAL=300;COUNT=999"], "look at more than 24000 days"),
        (["DTSTART;VALUE=DATE:19000301", "RRULE:FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO"], "look at more than 24000 days"),
        (["DTSTART;VALUE=DATE:20260301", "DURATION:P3660D", "RRULE:FREQ=WEEKLY"], "look at more than 24000 days"),
    ],
)
def test_expensive_recurrences_rejected_before_expansion(lines: list[str], says: str) -> None:
    event = "\n".join(["BEGIN:VEVENT", *lines, "END:VEVENT", ""])
    with pytest.raises(InvalidInput) as raised:
        read_contents(f"BEGIN:VCALENDAR\n{event * 500}END:VCALENDAR\n", end=dt.date(2037, 1, 1))
    [problem] = raised.value.errors
    assert problem.code == "too_large"
    assert says in problem.message


def test_many_rare_recurrences_accepted() -> None:
    event = "BEGIN:VEVENT\nSUMMARY:Birthday\nDTSTART;VALUE=DATE:19500301\nRRULE:FREQ=YEARLY{}\nEND:VEVENT\n"
    contents = read_contents(
        f"BEGIN:VCALENDAR\n{event.format('') * 200}{event.format(';COUNT=78') * 200}END:VCALENDAR\n"
    )
    assert list(contents.days) == [dt.date(2026, 3, 1)]
