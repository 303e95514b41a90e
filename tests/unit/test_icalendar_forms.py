"""What RFC 5545 allows and calendar programs write: it is read as it is meant, or refused with the event's name."""

import datetime as dt
import pathlib
import zoneinfo

import pytest

from jobworker.domain.errors import InvalidInput
from jobworker.domain.icalendar_lines import Effort, calendars
from jobworker.domain.icalendar_reading import Contents, read
from jobworker.domain.icalendar_zones import FileZone, Zones

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


def event(lines: str, uid: str = "u", name: str = "a") -> str:
    return f"BEGIN:VEVENT\nUID:{uid}\nSUMMARY:{name}\n{lines}\nEND:VEVENT\n"


def calendar(*parts: str) -> bytes:
    return f"BEGIN:VCALENDAR\nVERSION:2.0\n{''.join(parts)}END:VCALENDAR\n".replace("\n", "\r\n").encode()


def contents(*parts: str, zone: str | None = None, include_free: bool = False) -> Contents:
    return read(calendar(*parts), zone, FIRST, END, include_free)


def begins(found: Contents) -> list[str]:
    """Windows as `02 09:00-10:00` where they are in March, and days as `02`."""
    days = [f"{day:%m-%d}" for day in found.days]
    return days + [f"{each.begin:%m-%d %H:%M}-{each.end:%H:%M}" for each in found.windows]


def refused(*parts: str) -> list[str]:
    with pytest.raises(InvalidInput) as raised:
        contents(*parts)
    return [each.message for each in raised.value.errors]


def reasons(found: Contents) -> list[tuple[str, str]]:
    return [(each.name, each.reason) for each in found.left_out]


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
def test_files_with_windows(file: str, windows: list[tuple[str, str, str]]) -> None:
    found = read((FILES / f"{file}.ics").read_bytes(), None, FIRST, END)
    shown = [
        (each.begin.isoformat(timespec="minutes"), each.end.isoformat(timespec="minutes"), each.name)
        for each in found.windows
    ]
    assert (shown, found.days, found.left_out) == (windows, {}, [])


def test_a_fold_inside_of_a_character() -> None:
    found = read((FILES / "folded_utf8.ics").read_bytes(), None, FIRST, END)
    assert found.days == {dt.date(2026, 12, 24): "Betriebsruhe für alle, auch Büro"}


def test_free_time_blocks_nothing_unless_it_is_wanted() -> None:
    file = (FILES / "free_transparent.ics").read_bytes()
    found = read(file, None, FIRST, END)
    assert (found.days, reasons(found)) == (
        {},
        [("a", "it is free time (TRANSP:TRANSPARENT); include_free=true takes it")],
    )
    assert list(read(file, None, FIRST, END, include_free=True).days) == [dt.date(2026, 12, 24)]
    busy = contents(event(f"{DAY}\nTRANSP:OPAQUE"), event(f"{DAY}\nX-MICROSOFT-CDO-BUSYSTATUS:FREE", "v", "b"))
    assert list(busy.days.values()) == ["a"]
    assert reasons(busy) == [("b", "it is free time (X-MICROSOFT-CDO-BUSYSTATUS:FREE); include_free=true takes it")]


@pytest.mark.parametrize("breaks", [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_breaks(breaks: bytes, mark: bytes) -> None:
    file = calendar(event(f"{DAY}\nX-LONG:1\n 2\n\t3\nEXDATE;VAL\n UE=DATE:20260401")).replace(b"\r\n", breaks)
    assert begins(read(mark + file, None, FIRST, END)) == ["03-02"]


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
        # A time in the gap has the offset before it; one that comes twice is the first.
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
        # Alarms and other parts of an event say nothing about its time.
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
def test_an_event(lines: str, expected: list[str]) -> None:
    assert begins(contents(event(lines))) == expected


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (DAY.replace("20260302", "20260230"), "DTSTART is '20260230', which does not exist"),
        ("DTSTART:2026-03-02", "DTSTART is '2026-03-02'; it must be a day such as 20261224, or a time such as"),
        ("DTSTART;VALUE=DATE:20260302T000000", "it must be a day such as 20261224"),
        (f"{DAY}\n{DAY}", "DTSTART is there 2 times; it may be there once"),
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
        (f"{HOUR}\nRRULE:RSCALE=CHINESE;FREQ=YEARLY", "RRULE: 'RSCALE=CHINESE' is no part of a rule; they are FREQ="),
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
def test_an_event_that_is_refused_by_name(lines: str, says: str) -> None:
    [message] = refused(event(lines, name="Freeze"), event(DAY, "v", "good"))
    assert message.startswith("event 'Freeze' (UID u): ")
    assert says in message


def test_each_event_that_cannot_be_read_is_named() -> None:
    messages = refused(event("DTSTART:x", "1", "a"), event(DAY, "2"), event("DTSTART:y", "3", "c"))
    assert [message.split(":")[0] for message in messages] == ["event 'a' (UID 1)", "event 'c' (UID 3)"]
    with pytest.raises(InvalidInput, match=r"; and 5 more$"):
        contents(*[event("DTSTART:x", str(number)) for number in range(25)])


def test_uids_may_be_long() -> None:
    found = contents(event(DAY, "x" * 300 + "1", "a"), event(DAY, "x" * 300 + "2", "b"))
    assert (list(found.days.values()), found.left_out) == (["a; b"], [])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        # An occurrence is named in any zone, or as a day, and may move to another zone.
        ("RECURRENCE-ID;TZID=Europe/Berlin:20260309T090000", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID:20260309T080000Z", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID;TZID=Asia/Tokyo:20260309T170000", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID;VALUE=DATE:20260309", ["03-02", "03-10", "03-16", "03-23"]),
        # All that follow move by as much.
        ("RECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02", "03-10", "03-17", "03-24"]),
        ("STATUS:CANCELLED\nRECURRENCE-ID:20260309T080000Z", ["03-02", "03-16", "03-23"]),
        ("STATUS:CANCELLED\nRECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02"]),
        ("TRANSP:TRANSPARENT\nRECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02"]),
    ],
)
def test_an_event_that_stands_for_occurrences(other: str, expected: list[str]) -> None:
    moved = "DTSTART;TZID=Asia/Tokyo:20260310T170000\nDTEND;TZID=Asia/Tokyo:20260310T180000"
    for parts in ([event(WEEKLY), event(f"{other}\n{moved}")], [event(f"{other}\n{moved}"), event(WEEKLY)]):
        found = contents(*parts, zone="Europe/Berlin")
        assert [f"{each.begin:%m-%d}" for each in found.windows] == expected
        assert {f"{each.begin:%H:%M}" for each in found.windows} == {"09:00"}


def test_several_events_that_stand_for_all_that_follow() -> None:
    clock = "TZID=Europe/Berlin:202603"
    later = f"RECURRENCE-ID;RANGE=THISANDFUTURE;{clock}{{}}T090000\nDTSTART;{clock}{{}}T{{}}0000\nDURATION:PT2H"
    single = f"RECURRENCE-ID;{clock}23T120000\nDTSTART;{clock}24T120000\nDURATION:PT1H"
    found = contents(
        event(WEEKLY), event(later.format("16", "16", "12")), event(later.format("09", "09", "11")), event(single)
    )
    assert begins(found) == ["03-02 09:00-10:00", "03-09 11:00-13:00", "03-16 12:00-14:00", "03-24 12:00-13:00"]
    free = contents(event(f"{WEEKLY}\nTRANSP:TRANSPARENT"), event(later.format("16", "16", "12")))
    assert begins(free) == ["03-16 12:00-14:00", "03-23 12:00-14:00"]


def test_an_occurrence_without_the_event_that_repeats() -> None:
    assert begins(contents(event(f"RECURRENCE-ID:20260302T080000Z\n{HOUR}"))) == ["03-02 09:00-10:00"]
    [message] = refused(event(f"RECURRENCE-ID;RANGE=THISANDFUTURE:20260302T080000Z\n{HOUR}"))
    assert "RANGE=THISANDFUTURE needs the event that repeats, with the same UID, in the file" in message


def test_what_is_no_event_is_told() -> None:
    other = "BEGIN:{0}\nUID:t\nSUMMARY:Do it\nDTSTART:broken\nEND:{0}\n"
    found = contents(*[other.format(kind) for kind in ("VTODO", "VJOURNAL", "VFREEBUSY")], event(DAY))
    assert (begins(found), found.events) == (["03-02"], 1)
    assert reasons(found) == [
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
def test_methods(method: str, reason: str | None) -> None:
    found = contents(f"METHOD:{method}\n", event(DAY))
    assert (begins(found), reasons(found)) == (([], [("a", reason)]) if reason else (["03-02"], []))


def test_several_calendars_in_a_file() -> None:
    head = "X-WR-TIMEZONE:Europe/Berlin\nX-WR-CALNAME:One\n"
    both = calendar(head, event(HOUR)) + calendar(
        head, event(DAY, "v"), event("DTSTART:20260303T080000Z\nDURATION:PT1H", "w")
    )
    found = read(both, None, FIRST, END)
    assert begins(found) == ["03-02", "03-02 09:00-10:00", "03-03 09:00-10:00"]
    assert (found.zone, found.events) == ("Europe/Berlin", 3)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            calendar(event(DAY)).decode().encode("utf-16"),
            "the file is UTF-16 text; iCalendar files are UTF-8: save it as UTF-8",
        ),
        (calendar(event(DAY)).decode().encode("utf-16-be"), "UTF-16"),
        (calendar(event(DAY, name="für")).decode().encode("latin-1"), "not UTF-8 text: line 5"),
        (
            calendar("VERSION:1.0\n").replace(b"VERSION:2.0\r\n", b""),
            "VERSION is '1.0'; export it as iCalendar, VERSION:2.0",
        ),
        (calendar("CALSCALE:HEBREW\n"), "CALSCALE is 'HEBREW'; only GREGORIAN is read"),
        (calendar("BEGIN:VEVENT\n"), "'END:VCALENDAR' where VEVENT is open; each BEGIN needs its END"),
        (calendar("END:VEVENT\n"), "'END:VEVENT' where VCALENDAR is open"),
        (calendar("BEGIN:X-A\n", event(DAY), "END:X-A\n"), "'BEGIN:VEVENT' inside of X-A; VCALENDAR is outermost"),
        (calendar("BEGIN:VCALENDAR\nEND:VCALENDAR\n"), "'BEGIN:VCALENDAR' inside of VCALENDAR"),
        (calendar() + b"more\n", "'more' is no line of a calendar"),
        (calendar("BEGIN:X\n" * 9), "nested more than 8 deep"),
    ],
)
def test_a_file_that_is_refused(file: bytes, says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read(file, None, FIRST, END)
    assert says in str(raised.value)


def test_utc_by_name_is_no_wall_clock() -> None:
    named = "DTSTART;TZID=UTC:20260303T080000\nDURATION:PT1H"
    found = contents(event(HOUR), event(named, "v"))
    assert (begins(found), found.zone) == (["03-02 09:00-10:00", "03-03 09:00-10:00"], "Europe/Berlin")


def of_file(*parts: str) -> FileZone:
    zone = Zones(calendars(calendar(*parts)), Effort()).find_zone("Own")
    assert isinstance(zone, FileZone)
    return zone


def test_a_zone_of_the_file_is_like_the_real_one() -> None:
    own, real = of_file(BERLIN.format("Own")), zoneinfo.ZoneInfo("Europe/Berlin")
    begins = [
        dt.datetime(2026, month, day, tzinfo=dt.UTC) for month, day in ((1, 1), (3, 28), (7, 1), (10, 24), (12, 31))
    ]
    for utc in [begin + dt.timedelta(minutes=30 * number) for begin in begins for number in range(96)]:
        ours, theirs = utc.astimezone(own), utc.astimezone(real)
        assert (ours.replace(tzinfo=None), ours.fold) == (theirs.replace(tzinfo=None), theirs.fold)
        assert ours.utcoffset() == theirs.utcoffset()
        local = utc.replace(tzinfo=None)
        assert local.replace(tzinfo=own).utcoffset() == local.replace(tzinfo=real).utcoffset()


def test_a_zone_that_ends_its_summer_times() -> None:
    ended = BERLIN.format("Own").replace("BYMONTH=10", "BYMONTH=10;UNTIL=20251026T010000Z")
    own = of_file(ended.replace("BYMONTH=3\n", "BYMONTH=3;UNTIL=20250330T010000Z\n"))
    assert {dt.datetime(2030, month, 1, tzinfo=own).utcoffset() for month in range(1, 13)} == {dt.timedelta(hours=1)}
    assert dt.datetime(2025, 7, 1, tzinfo=own).utcoffset() == dt.timedelta(hours=2)


def test_a_zone_of_single_dates() -> None:
    part = "BEGIN:{0}\nDTSTART:{1}\nTZOFFSETFROM:{2}\nTZOFFSETTO:{3}\nRDATE:{4}\nEND:{0}\n"
    summer = part.format("DAYLIGHT", "20250330T020000", "+0100", "+0200", "20260329T020000")
    winter = part.format("STANDARD", "20251026T030000", "+0200", "+0100", "20261025T030000")
    own = of_file(f"BEGIN:VTIMEZONE\nTZID:Own\n{summer}{winter}END:VTIMEZONE\n")
    hours = [dt.datetime(year, month, 1, tzinfo=own).utcoffset() for year in (2024, 2026, 2027) for month in (1, 7)]
    assert hours == [dt.timedelta(hours=number) for number in (1, 1, 1, 2, 1, 1)]


@pytest.mark.parametrize("name", ["Customized Time Zone", "(UTC+01:00) Amsterdam, Berlin", "Company: HQ; 1"])
def test_names_of_zones_that_a_file_defines(name: str) -> None:
    lines = f'DTSTART;TZID="{name}":20260302T090000\nDTEND;TZID="{name}":20260302T100000'
    found = contents(BERLIN.format(name), event(lines))
    assert (begins(found), found.zone) == (["03-02 09:00-10:00"], name)
    assert begins(contents(BERLIN.format(name), event(lines), zone="UTC")) == ["03-02 08:00-09:00"]
    located = BERLIN.format(name).replace("BEGIN:STANDARD", "X-LIC-LOCATION:Europe/Rome\nBEGIN:STANDARD")
    assert contents(located, event(lines)).zone == "Europe/Rome"


def test_commas_of_a_zone_name_are_escaped_where_it_is_defined() -> None:
    name = "(GMT+01:00) Amsterdam, Berlin, Rome"
    defined = BERLIN.format(name.replace(",", r"\,"))
    found = contents(defined, event(f'DTSTART;TZID="{name}":20260302T090000\nDURATION:PT1H'))
    assert (begins(found), found.zone) == (["03-02 09:00-10:00"], name)


def test_a_zone_may_begin_before_the_years_of_events() -> None:
    part = "BEGIN:STANDARD\nDTSTART:18831118T120358\nTZOFFSETFROM:-045602\nTZOFFSETTO:-0500\n{}\nEND:STANDARD\n"
    own = of_file(f"BEGIN:VTIMEZONE\nTZID:Own\n{part.format('RDATE:18831118T120358')}END:VTIMEZONE\n")
    offsets = [dt.datetime(1883, 11, day, tzinfo=own).utcoffset() for day in (17, 19)]
    assert offsets == [-dt.timedelta(hours=4, minutes=56, seconds=2), -dt.timedelta(hours=5)]


def test_a_zone_of_the_first_year() -> None:
    zone = BERLIN.format("Own").replace("16010101T03", "00010101T00")
    [message] = refused(zone.replace("RRULE:", "X-A:"), event("DTSTART;TZID=Own:20260302T090000"))
    assert "the VTIMEZONE of 'Own' cannot be read" in message
    assert dt.datetime(2026, 7, 1, tzinfo=of_file(zone.replace("00010101", "00020101"))).utcoffset() == dt.timedelta(
        hours=2
    )


@pytest.mark.parametrize("count", [101, 2001])
def test_a_zone_of_too_many_observances(count: int) -> None:
    part = "BEGIN:STANDARD\nDTSTART:20200101T000000\nTZOFFSETFROM:+0100\nTZOFFSETTO:+0200\nEND:STANDARD\n"
    zone = f"BEGIN:VTIMEZONE\nTZID:Own\n{part * count}END:VTIMEZONE\n"
    [message] = refused(zone, event("DTSTART;TZID=Own:20260302T090000"))
    assert f"it has {count} STANDARD and DAYLIGHT parts, more than 100" in message


def test_the_dates_of_all_zones_of_a_file_are_counted_together() -> None:
    zone = BERLIN.format("Own").replace("RRULE:", "RDATE:" + ",".join(["20260329T020000"] * 501) + "\nRRULE:")
    zones = zone + zone.replace("Own", "Other")
    [message] = refused(zones, *(event(HOUR.replace("Europe/Berlin", name)) for name in ("Own", "Other")))
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
def test_a_zone_that_cannot_be_read(old: str, new: str, says: str) -> None:
    zone = BERLIN.format("Own").replace(old, new)
    [message] = refused(zone, event("DTSTART;TZID=Own:20260302T090000", name="Freeze"))
    assert message.startswith("event 'Freeze' (UID u): DTSTART: the VTIMEZONE of 'Own' cannot be read: ")
    assert says in message
    assert begins(contents(zone, event(DAY))) == ["03-02"]
