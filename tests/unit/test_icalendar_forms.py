"""Forms of iCalendar files that RFC 5545 allows and calendar programs write: read as meant, or refused by name."""

import datetime as dt
import pathlib
import zoneinfo

import pytest

from jobworker.domain.calendars.icalendar.content_lines import ParsingEffort, parse_calendars
from jobworker.domain.calendars.icalendar.parser import ICalendarContents, parse
from jobworker.domain.calendars.icalendar.time_zones import ICalendarTimeZone, ICalendarTimeZones
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
WEEKLY = f"{HOUR}\nRRULE:FREQ=WEEKLY;COUNT=4"


def make_event(lines: str, uid: str = "u", name: str = "a") -> str:
    return f"BEGIN:VEVENT\nUID:{uid}\nSUMMARY:{name}\n{lines}\nEND:VEVENT\n"


def make_calendar(*parts: str) -> bytes:
    return f"BEGIN:VCALENDAR\nVERSION:2.0\n{''.join(parts)}END:VCALENDAR\n".replace("\n", "\r\n").encode()


def read_contents(*parts: str, zone: str | None = None, include_free: bool = False) -> ICalendarContents:
    return parse(make_calendar(*parts), zone, FIRST, END, include_free)


def format_contents(contents: ICalendarContents) -> list[str]:
    """Return days as `03-02` and windows as `03-02 09:00-10:00`."""
    days = [f"{day:%m-%d}" for day in contents.days]
    return days + [f"{each.begin:%m-%d %H:%M}-{each.end:%H:%M}" for each in contents.windows]


def list_refused(*parts: str) -> list[str]:
    with pytest.raises(InvalidInput) as raised:
        read_contents(*parts)
    return [each.message for each in raised.value.errors]


def list_reasons(contents: ICalendarContents) -> list[tuple[str, str]]:
    return [(each.name, each.reason) for each in contents.left_out]


@pytest.mark.parametrize(
    ("file", "windows"),
    [
        ("duration_pt24h_dst", [("2026-03-28T12:00", "2026-03-29T13:00", "a")]),
        ("duration_p1d_dst", [("2026-03-28T12:00", "2026-03-29T12:00", "a")]),
        (
            "rdate_period",
            [("2026-01-05T09:00", "2026-01-05T10:00", "a"), ("2026-01-07T12:00", "2026-01-07T14:00", "a")],
        ),
        (
            "thisandfuture",
            [
                ("2026-01-05T09:00", "2026-01-05T10:00", "a"),
                ("2026-01-12T09:00", "2026-01-12T10:00", "a"),
                ("2026-01-19T11:00", "2026-01-19T12:00", "b"),
                ("2026-01-26T11:00", "2026-01-26T12:00", "b"),
            ],
        ),
        (
            "custom_tzid_vtimezone",
            [("2026-07-06T09:00", "2026-07-06T10:00", "a"), ("2026-07-13T09:00", "2026-07-13T10:00", "a")],
        ),
    ],
)
def test_file_windows_parsed(file: str, windows: list[tuple[str, str, str]]) -> None:
    found = parse((FILES / f"{file}.ics").read_bytes(), None, FIRST, END)
    shown = [
        (each.begin.isoformat(timespec="minutes"), each.end.isoformat(timespec="minutes"), each.name)
        for each in found.windows
    ]
    assert (shown, found.days, found.left_out) == (windows, {}, [])


def test_line_fold_inside_character_joined() -> None:
    found = parse((FILES / "folded_utf8.ics").read_bytes(), None, FIRST, END)
    assert found.days == {dt.date(2026, 12, 24): "Betriebsruhe für alle, auch Büro"}


def test_free_time_left_out_unless_include_free() -> None:
    file = (FILES / "free_transparent.ics").read_bytes()
    found = parse(file, None, FIRST, END)
    assert (found.days, list_reasons(found)) == (
        {},
        [("a", "it is free time (TRANSP:TRANSPARENT); include_free=true imports it")],
    )
    assert list(parse(file, None, FIRST, END, include_free=True).days) == [dt.date(2026, 12, 24)]
    busy = read_contents(
        make_event(f"{DAY}\nTRANSP:OPAQUE"), make_event(f"{DAY}\nX-MICROSOFT-CDO-BUSYSTATUS:FREE", "v", "b")
    )
    assert list(busy.days.values()) == ["a"]
    assert list_reasons(busy) == [
        ("b", "it is free time (X-MICROSOFT-CDO-BUSYSTATUS:FREE); include_free=true imports it")
    ]


@pytest.mark.parametrize("breaks", [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_breaks_and_byte_order_mark_accepted(breaks: bytes, mark: bytes) -> None:
    file = make_calendar(make_event(f"{DAY}\nX-LONG:1\n 2\n\t3\nEXDATE;VAL\n UE=DATE:20260401")).replace(
        b"\r\n", breaks
    )
    assert format_contents(parse(mark + file, None, FIRST, END)) == ["03-02"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # Exact and nominal durations, on the days when clocks change.
        ("DTSTART;TZID=Europe/Berlin:20261024T120000\nDURATION:PT24H", ["10-24 12:00-11:00"]),
        ("DTSTART;TZID=Europe/Berlin:20261024T120000\nDURATION:P1D", ["10-24 12:00-12:00"]),
        ("DTSTART;TZID=Europe/Berlin:20261024T120000\nDURATION:P1DT1H", ["10-24 12:00-13:00"]),
        ("DTSTART;TZID=Europe/Berlin:20261023T120000\nDURATION:P1W", ["10-23 12:00-12:00"]),
        # The length between DTSTART and DTEND is exact for each occurrence.
        (
            "DTSTART;TZID=Europe/Berlin:20260327T220000\nDTEND;TZID=Europe/Berlin:20260328T060000\nRRULE:FREQ=DAILY;COUNT=2",
            ["03-27 22:00-06:00", "03-28 22:00-07:00"],
        ),
        (
            "DTSTART;TZID=Europe/Berlin:20260327T220000\nDURATION:PT8H\nRRULE:FREQ=DAILY;COUNT=2",
            ["03-27 22:00-06:00", "03-28 22:00-07:00"],
        ),
        # A time in the gap has the offset before the gap; a time that comes twice means its first occurrence.
        ("DTSTART;TZID=Europe/Berlin:20260329T023000\nDURATION:PT1H", ["03-29 03:30-04:30"]),
        ("DTSTART;TZID=Europe/Berlin:20261025T023000\nDURATION:PT2H", ["10-25 02:30-03:30"]),
        ("DTSTART;TZID=Europe/Berlin:20261025T024500\nDURATION:PT30M", ["10-25 02:45-03:15"]),
        # DTEND in another zone, in UTC, or without one.
        (HOUR.replace("Berlin:20260302T100000", "London:20260302T100000"), ["03-02 09:00-11:00"]),
        ("DTSTART;TZID=Europe/Berlin:20260302T090000\nDTEND:20260302T090000Z", ["03-02 09:00-10:00"]),
        ("DTSTART;TZID=Europe/Berlin:20260302T090000\nDTEND:20260302T093000", ["03-02 09:00-09:30"]),
        ("DTSTART;TZID=Europe/Berlin:20260302T080000Z\nDURATION:PT1H", ["03-02 09:00-10:00"]),
        # Days: DTEND is not included, a day may end with itself, VALUE=DATE may be missing.
        ("DTSTART;VALUE=DATE:20260302\nDTEND;VALUE=DATE:20260304", ["03-02", "03-03"]),
        ("DTSTART;VALUE=DATE:20260302\nDTEND;VALUE=DATE:20260302", ["03-02"]),
        ("DTSTART:20260302\nDURATION:P2D", ["03-02", "03-03"]),
        ("DTSTART:20260302\nDURATION:PT48H", ["03-02", "03-03"]),
        ("DTSTART;VALUE=DATE;TZID=Nowhere:20260302", ["03-02"]),
        # Exceptions: as days, in UTC, in lists, in several lines, by rule.
        (f"{WEEKLY}\nEXDATE;VALUE=DATE:20260309,20260316", ["03-02 09:00-10:00", "03-23 09:00-10:00"]),
        (f"{WEEKLY}\nEXDATE:20260309T080000Z,20260316T080000Z", ["03-02 09:00-10:00", "03-23 09:00-10:00"]),
        (
            f"{WEEKLY}\nEXDATE;TZID=Europe/London:20260309T080000\nEXDATE;TZID=Europe/Berlin:20260316T090000",
            ["03-02 09:00-10:00", "03-23 09:00-10:00"],
        ),
        (
            f"{WEEKLY}\nEXDATE:20260309T090000\nEXDATE;TZID=Europe/Berlin:20260316T090000,",
            ["03-02 09:00-10:00", "03-23 09:00-10:00"],
        ),
        (f"{WEEKLY}\nEXRULE:FREQ=WEEKLY;INTERVAL=2", ["03-09 09:00-10:00", "03-23 09:00-10:00"]),
        (f"{DAY}\nRRULE:FREQ=DAILY;COUNT=3\nEXDATE;TZID=Europe/Berlin:20260303T000000", ["03-02", "03-04"]),
        # More dates: times, days, periods with an end.
        (f"{HOUR}\nRDATE:20260303T080000Z", ["03-02 09:00-10:00", "03-03 09:00-10:00"]),
        (
            f"{HOUR}\nRDATE;VALUE=PERIOD:20260303T080000Z/20260303T100000Z,20260304T080000Z/PT30M",
            ["03-02 09:00-10:00", "03-03 09:00-11:00", "03-04 09:00-09:30"],
        ),
        (f"{DAY}\nRDATE:20260304,20260305", ["03-02", "03-04", "03-05"]),
        # Ends of rules: a day includes that day; in UTC; without a zone; never.
        (f"{HOUR}\nRRULE:FREQ=WEEKLY;UNTIL=20260309", ["03-02 09:00-10:00", "03-09 09:00-10:00"]),
        (f"{HOUR}\nRRULE:FREQ=WEEKLY;UNTIL=20260309T080000Z", ["03-02 09:00-10:00", "03-09 09:00-10:00"]),
        (f"{HOUR}\nRRULE:FREQ=WEEKLY;UNTIL=20260309T075959Z", ["03-02 09:00-10:00"]),
        (f"{HOUR}\nRRULE:FREQ=WEEKLY;UNTIL=20260309T090000", ["03-02 09:00-10:00", "03-09 09:00-10:00"]),
        (f"{HOUR}\nRRULE:FREQ=WEEKLY;UNTIL=16010101T000000Z", ["03-02 09:00-10:00"]),
        (
            f"{HOUR}\nRRULE:freq=monthly;interval=4;wkst=su;",
            ["03-02 09:00-10:00", "07-02 09:00-10:00", "11-02 09:00-10:00"],
        ),
        ("DTSTART;VALUE=DATE:20200101\nRRULE:FREQ=DAILY;COUNT=2194", ["01-01", "01-02"]),
        # Alarms and other parts of an event do not affect its time.
        (f"{DAY}\nBEGIN:VALARM\nTRIGGER:-PT15M\nDURATION:PT5M\nbroken\nEND:VALARM", ["03-02"]),
        # Parameters in quotation marks may have colons, semicolons and commas; names are in any case.
        ('dtstart;x-a="b:c;d,e";value="DATE":20260302', ["03-02"]),
        ('DTSTART;TZID="Europe/Berlin":20260302T090060\nDURATION:PT1H', ["03-02 09:00-10:00"]),
        # Zones by the names of Windows, and with a prefix.
        ("DTSTART;TZID=W. Europe Standard Time:20260302T090000\nDURATION:PT1H", ["03-02 09:00-10:00"]),
        ("DTSTART;TZID=/mozilla.org/20050126_1/Europe/Berlin:20260302T090000\nDURATION:PT1H", ["03-02 09:00-10:00"]),
        # Outlook's days are times from midnight to midnight.
        (
            "DTSTART;TZID=W. Europe Standard Time:20260302T000000\nDTEND;TZID=W. Europe Standard Time:20260304T000000\n"
            "X-MICROSOFT-CDO-ALLDAYEVENT:TRUE\nRRULE:FREQ=WEEKLY;COUNT=2\nEXDATE:20260308T230000Z",
            ["03-02", "03-03"],
        ),
    ],
)
def test_event_parsed_to_days_and_windows(lines: str, expected: list[str]) -> None:
    assert format_contents(read_contents(make_event(lines))) == expected


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (DAY.replace("20260302", "20260230"), "DTSTART is '20260230', which does not exist"),
        ("DTSTART:2026-03-02", "DTSTART is '2026-03-02'; it must be a day such as 20261224, or a time such as"),
        ("DTSTART;VALUE=DATE:20260302T000000", "it must be a day such as 20261224"),
        (f"{DAY}\n{DAY}", "DTSTART is present 2 times; it may be present once"),
        (f"{HOUR}\nDURATION:PT1H", "DTEND and DURATION exclude each other; leave one out"),
        (f"{DAY}\nDURATION:PT36H", "DURATION of an event of whole days must be whole days, such as P1D"),
        (f"{DAY}\nDURATION:-P1D", "an event cannot end before it begins"),
        (f"{DAY}\nDURATION:1 day", "DURATION is '1 day'; it must be a duration such as PT1H30M, P1D or P2W"),
        (f"{HOUR}\nRDATE;VALUE=DATE:20260303", "RDATE is a day and DTSTART a time; write the time, too"),
        (f"{HOUR}\nRDATE;VALUE=PERIOD:20260303T090000/20260303T080000", "a period begins with a time, and ends later"),
        (
            f"{DAY}\nEXDATE:20260302T230000Z",
            "EXDATE is a time in UTC and the event is on days; write it as EXDATE;VALUE=DATE",
        ),
        ("DTSTART:20260302T090000\nDTEND:20260302T090000Z", "DTEND has a time zone and DTSTART has none"),
        (f"{HOUR}\nRRULE:FREQ=DAILY;COUNT=2;UNTIL=20260401", "RRULE must have UNTIL or COUNT once, not both"),
        (f"{HOUR}\nRRULE:FREQ=DAILY;UNTIL=soon", "RRULE: UNTIL is 'SOON'; it must be a day such as"),
        (f"{HOUR}\nRRULE:FREQ=HOURLY;INTERVAL=6", "RRULE: FREQ=HOURLY repeats within a day; FREQ must be DAILY"),
        (
            f"{HOUR}\nRRULE:RSCALE=CHINESE;FREQ=YEARLY",
            "RRULE: 'RSCALE=CHINESE' is not a part of a rule; the parts are FREQ=",
        ),
        (f"{HOUR}\nEXRULE:FREQ=DAILY;BYHOUR=9,10", "EXRULE: the event repeats within a day"),
        (f"{HOUR}\nRRULE:" + "FREQ=DAILY;" * 200, "RRULE has more than 1500 characters"),
        (f"{HOUR}\nSEQUENCE:new", "SEQUENCE is 'new'; it must be a number such as 0"),
        (f"{DAY}\nEXDATE", "'EXDATE' is not a line of the form NAME;PARAMETER=…:VALUE"),
        (f"{DAY}\nEXDATE;VALUE:20260303", "'EXDATE;VALUE:20260303' is not a line of the form"),
        (f"{HOUR}\nRECURRENCE-ID;RANGE=THISANDPRIOR:20260302T090000", "it must be THISANDFUTURE or left out"),
        (f"{WEEKLY}\nRECURRENCE-ID:20260302T090000", "it cannot have RRULE, RDATE or EXRULE"),
        (
            "DTSTART;TZID=Planet Mars:20260302T090000",
            "DTSTART: time zone 'Planet Mars' is not known, and the file does not define it; name an IANA zone such as",
        ),
    ],
)
def test_invalid_event_refused_by_name(lines: str, says: str) -> None:
    [message] = list_refused(make_event(lines, name="Freeze"), make_event(DAY, "v", "good"))
    assert message.startswith("event 'Freeze' (UID u): ")
    assert says in message


def test_invalid_events_all_named() -> None:
    messages = list_refused(make_event("DTSTART:x", "1", "a"), make_event(DAY, "2"), make_event("DTSTART:y", "3", "c"))
    assert [message.split(":")[0] for message in messages] == ["event 'a' (UID 1)", "event 'c' (UID 3)"]
    with pytest.raises(InvalidInput, match=r"; and 5 more$"):
        read_contents(*[make_event("DTSTART:x", str(number)) for number in range(25)])


def test_long_uids_distinguished() -> None:
    found = read_contents(make_event(DAY, "x" * 300 + "1", "a"), make_event(DAY, "x" * 300 + "2", "b"))
    assert (list(found.days.values()), found.left_out) == (["a; b"], [])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        # RECURRENCE-ID names an occurrence in any zone, or as a day; the occurrence may move to another zone.
        ("RECURRENCE-ID;TZID=Europe/Berlin:20260309T090000", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID:20260309T080000Z", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID;TZID=Asia/Tokyo:20260309T170000", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID;VALUE=DATE:20260309", ["03-02", "03-10", "03-16", "03-23"]),
        # All later occurrences move by the same offset.
        ("RECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02", "03-10", "03-17", "03-24"]),
        ("STATUS:CANCELLED\nRECURRENCE-ID:20260309T080000Z", ["03-02", "03-16", "03-23"]),
        ("STATUS:CANCELLED\nRECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02"]),
        ("TRANSP:TRANSPARENT\nRECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02"]),
    ],
)
def test_recurrence_id_event_replaces_occurrences(other: str, expected: list[str]) -> None:
    moved = "DTSTART;TZID=Asia/Tokyo:20260310T170000\nDTEND;TZID=Asia/Tokyo:20260310T180000"
    for parts in (
        [make_event(WEEKLY), make_event(f"{other}\n{moved}")],
        [make_event(f"{other}\n{moved}"), make_event(WEEKLY)],
    ):
        found = read_contents(*parts, zone="Europe/Berlin")
        assert [f"{each.begin:%m-%d}" for each in found.windows] == expected
        assert {f"{each.begin:%H:%M}" for each in found.windows} == {"09:00"}


def test_several_thisandfuture_events_applied_in_order() -> None:
    clock = "TZID=Europe/Berlin:202603"
    later = f"RECURRENCE-ID;RANGE=THISANDFUTURE;{clock}{{}}T090000\nDTSTART;{clock}{{}}T{{}}0000\nDURATION:PT2H"
    single = f"RECURRENCE-ID;{clock}23T120000\nDTSTART;{clock}24T120000\nDURATION:PT1H"
    found = read_contents(
        make_event(WEEKLY),
        make_event(later.format("16", "16", "12")),
        make_event(later.format("09", "09", "11")),
        make_event(single),
    )
    assert format_contents(found) == [
        "03-02 09:00-10:00",
        "03-09 11:00-13:00",
        "03-16 12:00-14:00",
        "03-24 12:00-13:00",
    ]
    free = read_contents(make_event(f"{WEEKLY}\nTRANSP:TRANSPARENT"), make_event(later.format("16", "16", "12")))
    assert format_contents(free) == ["03-16 12:00-14:00", "03-23 12:00-14:00"]


def test_occurrence_without_recurring_event() -> None:
    assert format_contents(read_contents(make_event(f"RECURRENCE-ID:20260302T080000Z\n{HOUR}"))) == [
        "03-02 09:00-10:00"
    ]
    [message] = list_refused(make_event(f"RECURRENCE-ID;RANGE=THISANDFUTURE:20260302T080000Z\n{HOUR}"))
    assert "RANGE=THISANDFUTURE needs the event that repeats, with the same UID, in the file" in message


def test_non_event_components_listed_as_left_out() -> None:
    other = "BEGIN:{0}\nUID:t\nSUMMARY:Do it\nDTSTART:broken\nEND:{0}\n"
    found = read_contents(*[other.format(kind) for kind in ("VTODO", "VJOURNAL", "VFREEBUSY")], make_event(DAY))
    assert (format_contents(found), found.events) == (["03-02"], 1)
    assert list_reasons(found) == [
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
    found = read_contents(f"METHOD:{method}\n", make_event(DAY))
    assert (format_contents(found), list_reasons(found)) == (([], [("a", reason)]) if reason else (["03-02"], []))


def test_several_calendars_in_file_merged() -> None:
    head = "X-WR-TIMEZONE:Europe/Berlin\nX-WR-CALNAME:One\n"
    both = make_calendar(head, make_event(HOUR)) + make_calendar(
        head, make_event(DAY, "v"), make_event("DTSTART:20260303T080000Z\nDURATION:PT1H", "w")
    )
    found = parse(both, None, FIRST, END)
    assert format_contents(found) == ["03-02", "03-02 09:00-10:00", "03-03 09:00-10:00"]
    assert (found.zone, found.events) == ("Europe/Berlin", 3)


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
def test_invalid_file_refused(file: bytes, says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(file, None, FIRST, END)
    assert says in str(raised.value)


def test_tzid_utc_does_not_set_calendar_zone() -> None:
    named = "DTSTART;TZID=UTC:20260303T080000\nDURATION:PT1H"
    found = read_contents(make_event(HOUR), make_event(named, "v"))
    assert (format_contents(found), found.zone) == (["03-02 09:00-10:00", "03-03 09:00-10:00"], "Europe/Berlin")


def read_file(*parts: str) -> ICalendarTimeZone:
    zone = ICalendarTimeZones(parse_calendars(make_calendar(*parts)), ParsingEffort()).find_zone("Own")
    assert isinstance(zone, ICalendarTimeZone)
    return zone


def test_vtimezone_matches_iana_zone() -> None:
    own, real = read_file(BERLIN.format("Own")), zoneinfo.ZoneInfo("Europe/Berlin")
    begins = [
        dt.datetime(2026, month, day, tzinfo=dt.UTC) for month, day in ((1, 1), (3, 28), (7, 1), (10, 24), (12, 31))
    ]
    for utc in [begin + dt.timedelta(minutes=30 * number) for begin in begins for number in range(96)]:
        ours, theirs = utc.astimezone(own), utc.astimezone(real)
        assert (ours.replace(tzinfo=None), ours.fold) == (theirs.replace(tzinfo=None), theirs.fold)
        assert ours.utcoffset() == theirs.utcoffset()
        local = utc.replace(tzinfo=None)
        assert local.replace(tzinfo=own).utcoffset() == local.replace(tzinfo=real).utcoffset()


def test_vtimezone_with_ended_summer_time() -> None:
    ended = BERLIN.format("Own").replace("BYMONTH=10", "BYMONTH=10;UNTIL=20251026T010000Z")
    own = read_file(ended.replace("BYMONTH=3\n", "BYMONTH=3;UNTIL=20250330T010000Z\n"))
    assert {dt.datetime(2030, month, 1, tzinfo=own).utcoffset() for month in range(1, 13)} == {dt.timedelta(hours=1)}
    assert dt.datetime(2025, 7, 1, tzinfo=own).utcoffset() == dt.timedelta(hours=2)


def test_vtimezone_with_rdate_onsets() -> None:
    part = "BEGIN:{0}\nDTSTART:{1}\nTZOFFSETFROM:{2}\nTZOFFSETTO:{3}\nRDATE:{4}\nEND:{0}\n"
    summer = part.format("DAYLIGHT", "20250330T020000", "+0100", "+0200", "20260329T020000")
    winter = part.format("STANDARD", "20251026T030000", "+0200", "+0100", "20261025T030000")
    own = read_file(f"BEGIN:VTIMEZONE\nTZID:Own\n{summer}{winter}END:VTIMEZONE\n")
    hours = [dt.datetime(year, month, 1, tzinfo=own).utcoffset() for year in (2024, 2026, 2027) for month in (1, 7)]
    assert hours == [dt.timedelta(hours=number) for number in (1, 1, 1, 2, 1, 1)]


@pytest.mark.parametrize("name", ["Customized Time Zone", "(UTC+01:00) Amsterdam, Berlin", "Company: HQ; 1"])
def test_vtimezone_with_custom_name_used(name: str) -> None:
    lines = f'DTSTART;TZID="{name}":20260302T090000\nDTEND;TZID="{name}":20260302T100000'
    found = read_contents(BERLIN.format(name), make_event(lines))
    assert (format_contents(found), found.zone) == (["03-02 09:00-10:00"], name)
    assert format_contents(read_contents(BERLIN.format(name), make_event(lines), zone="UTC")) == ["03-02 08:00-09:00"]
    located = BERLIN.format(name).replace("BEGIN:STANDARD", "X-LIC-LOCATION:Europe/Rome\nBEGIN:STANDARD")
    assert read_contents(located, make_event(lines)).zone == "Europe/Rome"


def test_escaped_commas_in_vtimezone_name_matched() -> None:
    name = "(GMT+01:00) Amsterdam, Berlin, Rome"
    defined = BERLIN.format(name.replace(",", r"\,"))
    found = read_contents(defined, make_event(f'DTSTART;TZID="{name}":20260302T090000\nDURATION:PT1H'))
    assert (format_contents(found), found.zone) == (["03-02 09:00-10:00"], name)


def test_vtimezone_onset_in_19th_century_accepted() -> None:
    part = "BEGIN:STANDARD\nDTSTART:18831118T120358\nTZOFFSETFROM:-045602\nTZOFFSETTO:-0500\n{}\nEND:STANDARD\n"
    own = read_file(f"BEGIN:VTIMEZONE\nTZID:Own\n{part.format('RDATE:18831118T120358')}END:VTIMEZONE\n")
    offsets = [dt.datetime(1883, 11, day, tzinfo=own).utcoffset() for day in (17, 19)]
    assert offsets == [-dt.timedelta(hours=4, minutes=56, seconds=2), -dt.timedelta(hours=5)]


def test_vtimezone_onset_in_year_one_refused() -> None:
    zone = BERLIN.format("Own").replace("16010101T03", "00010101T00")
    [message] = list_refused(zone.replace("RRULE:", "X-A:"), make_event("DTSTART;TZID=Own:20260302T090000"))
    assert "the VTIMEZONE of 'Own' cannot be read" in message
    assert dt.datetime(2026, 7, 1, tzinfo=read_file(zone.replace("00010101", "00020101"))).utcoffset() == dt.timedelta(
        hours=2
    )


@pytest.mark.parametrize("count", [101, 2001])
def test_vtimezone_with_too_many_observances_refused(count: int) -> None:
    part = "BEGIN:STANDARD\nDTSTART:20200101T000000\nTZOFFSETFROM:+0100\nTZOFFSETTO:+0200\nEND:STANDARD\n"
    zone = f"BEGIN:VTIMEZONE\nTZID:Own\n{part * count}END:VTIMEZONE\n"
    [message] = list_refused(zone, make_event("DTSTART;TZID=Own:20260302T090000"))
    assert f"it has {count} STANDARD and DAYLIGHT parts, more than 100" in message


def test_vtimezone_onsets_limited_per_file() -> None:
    zone = BERLIN.format("Own").replace("RRULE:", "RDATE:" + ",".join(["20260329T020000"] * 501) + "\nRRULE:")
    zones = zone + zone.replace("Own", "Other")
    [message] = list_refused(zones, *(make_event(HOUR.replace("Europe/Berlin", name)) for name in ("Own", "Other")))
    assert message.startswith("the time zones that it defines change their offset more than 1000 times (read from ")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("TZOFFSETTO:+0100", "TZOFFSETTO:1", "TZOFFSETTO must be an offset such as +0100"),
        ("TZOFFSETFROM:+0200\n", "", "TZOFFSETFROM must be an offset"),
        ("FREQ=YEARLY", "FREQ=SECONDLY", "SECONDLY is too often"),
        ("YEARLY;BYDAY=-1SU", "DAILY", "it must be FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU, for example"),
        ("DTSTART:16010101T030000\n", "", "DTSTART is missing"),
    ],
)
def test_unreadable_vtimezone_refused_only_where_used(old: str, new: str, says: str) -> None:
    zone = BERLIN.format("Own").replace(old, new)
    [message] = list_refused(zone, make_event("DTSTART;TZID=Own:20260302T090000", name="Freeze"))
    assert message.startswith("event 'Freeze' (UID u): DTSTART: the VTIMEZONE of 'Own' cannot be read: ")
    assert says in message
    assert format_contents(read_contents(zone, make_event(DAY))) == ["03-02"]
