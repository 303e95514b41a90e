"""Events of iCalendar files in forms that calendar programs write: read as meant, or refused by name."""

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
    list_refused,
    make_event,
    read_contents,
)

WEEKLY = f"{HOUR}\nRRULE:FREQ=WEEKLY;COUNT=4"


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
    contents = parse((FILES / f"{file}.ics").read_bytes(), None, FIRST, END)
    shown = [
        (window.begin.isoformat(timespec="minutes"), window.end.isoformat(timespec="minutes"), window.name)
        for window in contents.windows
    ]
    assert (shown, contents.days, contents.left_out) == (windows, {}, [])


def test_free_time_left_out_unless_include_free() -> None:
    file = (FILES / "free_transparent.ics").read_bytes()
    contents = parse(file, None, FIRST, END)
    assert (contents.days, list_reasons(contents)) == (
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
def test_invalid_event_rejected_by_name(lines: str, says: str) -> None:
    [message] = list_refused(make_event(lines, name="Freeze"), make_event(DAY, "v", "good"))
    assert message.startswith("event 'Freeze' (UID u): ")
    assert says in message


def test_invalid_events_all_named() -> None:
    messages = list_refused(make_event("DTSTART:x", "1", "a"), make_event(DAY, "2"), make_event("DTSTART:y", "3", "c"))
    assert [message.split(":")[0] for message in messages] == ["event 'a' (UID 1)", "event 'c' (UID 3)"]
    with pytest.raises(InvalidInput, match=r"; and 5 more$"):
        read_contents(*[make_event("DTSTART:x", str(number)) for number in range(25)])


def test_long_uids_distinguished() -> None:
    contents = read_contents(make_event(DAY, "x" * 300 + "1", "a"), make_event(DAY, "x" * 300 + "2", "b"))
    assert (list(contents.days.values()), contents.left_out) == (["a; b"], [])


@pytest.mark.parametrize(
    ("recurrence_id", "expected"),
    [
        # RECURRENCE-ID names an occurrence in any zone, or as a day; the occurrence may move to another zone.
        ("RECURRENCE-ID;TZID=Europe/Berlin:20260309T090000", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID:20260309T080000Z", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID;TZID=Asia/Tokyo:20260309T170000", ["03-02", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID;VALUE=DATE:20260309", ["03-02", "03-10", "03-16", "03-23"]),
        # All later occurrences move by the same offset.
        ("RECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02", "03-10", "03-17", "03-24"]),
        # An occurrence that the rule does not have is added.
        ("RECURRENCE-ID:20260310T080000Z", ["03-02", "03-09", "03-10", "03-16", "03-23"]),
        ("RECURRENCE-ID;RANGE=THISANDFUTURE:20260310T080000Z", ["03-02", "03-09", "03-10", "03-16", "03-23"]),
        ("STATUS:CANCELLED\nRECURRENCE-ID:20260309T080000Z", ["03-02", "03-16", "03-23"]),
        ("STATUS:CANCELLED\nRECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02"]),
        ("TRANSP:TRANSPARENT\nRECURRENCE-ID;RANGE=THISANDFUTURE:20260309T080000Z", ["03-02"]),
    ],
)
def test_recurrence_id_event_replaces_occurrences(recurrence_id: str, expected: list[str]) -> None:
    moved = "DTSTART;TZID=Asia/Tokyo:20260310T170000\nDTEND;TZID=Asia/Tokyo:20260310T180000"
    for parts in (
        [make_event(WEEKLY), make_event(f"{recurrence_id}\n{moved}")],
        [make_event(f"{recurrence_id}\n{moved}"), make_event(WEEKLY)],
    ):
        contents = read_contents(*parts, zone="Europe/Berlin")
        assert [f"{window.begin:%m-%d}" for window in contents.windows] == expected
        assert {f"{window.begin:%H:%M}" for window in contents.windows} == {"09:00"}


@pytest.mark.parametrize("reach", ["", ";RANGE=THISANDFUTURE"])
def test_override_of_occurrence_excluded_by_exdate_is_kept(reach: str) -> None:
    override = f"RECURRENCE-ID{reach}:20260309T080000Z\n{HOUR}".replace("20260302", "20260309")
    contents = read_contents(make_event(f"{WEEKLY}\nEXDATE:20260309T080000Z"), make_event(override), zone="UTC")
    assert [f"{window.begin:%m-%d}" for window in contents.windows] == ["03-02", "03-09", "03-16", "03-23"]


def test_several_thisandfuture_events_applied_in_order() -> None:
    clock = "TZID=Europe/Berlin:202603"
    later = f"RECURRENCE-ID;RANGE=THISANDFUTURE;{clock}{{}}T090000\nDTSTART;{clock}{{}}T{{}}0000\nDURATION:PT2H"
    single = f"RECURRENCE-ID;{clock}23T120000\nDTSTART;{clock}24T120000\nDURATION:PT1H"
    contents = read_contents(
        make_event(WEEKLY),
        make_event(later.format("16", "16", "12")),
        make_event(later.format("09", "09", "11")),
        make_event(single),
    )
    assert format_contents(contents) == [
        "03-02 09:00-10:00",
        "03-09 11:00-13:00",
        "03-16 12:00-14:00",
        "03-24 12:00-13:00",
    ]
    free = read_contents(make_event(f"{WEEKLY}\nTRANSP:TRANSPARENT"), make_event(later.format("16", "16", "12")))
    assert format_contents(free) == ["03-16 12:00-14:00", "03-23 12:00-14:00"]


def test_occurrence_without_recurring_event_read_as_single_event() -> None:
    assert format_contents(read_contents(make_event(f"RECURRENCE-ID:20260302T080000Z\n{HOUR}"))) == [
        "03-02 09:00-10:00"
    ]
    [message] = list_refused(make_event(f"RECURRENCE-ID;RANGE=THISANDFUTURE:20260302T080000Z\n{HOUR}"))
    assert "RANGE=THISANDFUTURE needs the event that repeats, with the same UID, in the file" in message
