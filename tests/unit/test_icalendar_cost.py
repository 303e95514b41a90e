"""The cost of iCalendar files: hostile files are refused early, and the cost of the largest files is bounded."""

import contextlib
import datetime as dt
import time

import pytest

from jobworker.domain.calendars.icalendar.content_lines import MAX_EVENTS, MAX_FILE_BYTES, MAX_LINES
from jobworker.domain.calendars.icalendar.parser import parse
from jobworker.domain.errors import InvalidInput

FIRST, END = dt.date(2025, 11, 30), dt.date(2036, 12, 1)

#: Maximum CPU time (s) of one file: 0.15 s was not exceeded in measurements, and other tests run beside this one.
MAX_SECONDS = 0.3

#: Maximum number of tries, because a busy machine slows single ones.
MAX_TRIES = 3


def make_calendar(body: str) -> bytes:
    """Return a file with this content."""
    return ("BEGIN:VCALENDAR\n" + body + "END:VCALENDAR\n").encode()


def repeat_piece(piece: str) -> bytes:
    """Return a file of this piece, numbered and repeated as often as the limits of size and lines allow."""
    longest = len(piece.encode()) + 3
    count = min((MAX_FILE_BYTES - 100) // longest, (MAX_LINES - 2) // piece.count("\n"))
    return make_calendar("".join(piece.replace("{}", str(number)) for number in range(count)))


def make_events(*lines: str, count: int = MAX_EVENTS) -> bytes:
    """Return a file of events with these lines, as many as the limits of number and size allow."""
    piece = "\n".join(["BEGIN:VEVENT", *lines, "END:VEVENT", ""])
    return make_calendar(
        "".join(piece.replace("{}", str(number)) for number in range(min(count, MAX_FILE_BYTES // len(piece))))
    )


def make_zone(name: str, *observances: str) -> str:
    parts = [
        f"BEGIN:STANDARD\nTZOFFSETFROM:+0100\nTZOFFSETTO:+0200\n{observance}\nEND:STANDARD"
        for observance in observances
    ]
    return "\n".join(["BEGIN:VTIMEZONE", f"TZID:{name}", *parts, "END:VTIMEZONE", ""])


def make_own_zone(name: str, observances: int) -> str:
    """Return a zone with this number of offset changes, all long ago."""
    onsets = [f"DTSTART:{1910 + n % 80}{1 + n % 12:02}{1 + n % 28:02}T000000" for n in range(observances)]
    return make_zone(name, *onsets)


def make_half_days(tzid: str) -> str:
    """Return one event that occurs as often as a calendar may have windows."""
    first = dt.datetime.combine(dt.date(2026, 1, 1), dt.time())
    times = ",".join(f"{first + dt.timedelta(hours=12 * n):%Y%m%dT%H%M%S}" for n in range(4990))
    start = f"DTSTART;TZID={tzid}:20260101T000000\nDURATION:PT1H"
    return f"BEGIN:VEVENT\n{start}\nRDATE;TZID={tzid}:{times}\nEND:VEVENT\n"


#: Number of rules of a file that are read.
RULES = 1000

DAY = "DTSTART;VALUE=DATE:20260301"
HOUR = ("DTSTART;TZID=Europe/Berlin:20260301T090000", "DURATION:PT1H")
DATE_LIST = ",".join(f"{number:08}" for number in range(20260101, 20260129))
YEARLY = "DTSTART:16010101T020000\nRRULE:FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU"
SECONDLY = "DTSTART:16010101T020000\nRRULE:FREQ=SECONDLY"
ZONED_EVENT = "BEGIN:VEVENT\nDTSTART;TZID=Z{}:20260301T090000\nDURATION:PT1H\nEND:VEVENT\n"

FILES = {
    "lines without end": b"BEGIN:VCALENDAR\n" + b"X-A:1\n" * (5 * 1024 * 1024 // 6) + b"END:VCALENDAR\n",
    "many tiny lines": make_calendar("X-A:1\n" * (MAX_FILE_BYTES // 6 - 10)),
    "as many lines as are read": make_calendar("X-A:1\n" * (MAX_LINES - 2)),
    "empty lines": make_calendar("\n" * (MAX_FILE_BYTES - 100)),
    "carriage returns": make_calendar("\r" * (MAX_FILE_BYTES - 100)),
    "folds": make_calendar("X-A:1\n" + " \n" * (MAX_LINES - 3)),
    "folded begins of events": make_calendar("BEGIN:VE\n VENT\nEND:VEV\n ENT\n" * (MAX_FILE_BYTES // 30)),
    "folded begins that fit": make_calendar("BEGIN:VE\n VENT\nEND:VEV\n ENT\n" * (MAX_EVENTS)),
    "deep nesting": make_calendar("BEGIN:VEVENT\n" * (MAX_LINES - 2)),
    "nesting without events": make_calendar("BEGIN:X\n" * (MAX_LINES - 2)),
    "many small components": repeat_piece("BEGIN:VTODO\nEND:VTODO\n"),
    "many calendars": b"BEGIN:VCALENDAR\nEND:VCALENDAR\n" * (MAX_LINES // 2),
    "many broken events": make_events("DTSTART:x"),
    "many broken lines": make_events("DTSTART;;;;:x", "RRULE", "=", "EXDATE;"),
    "one long line": make_calendar("X-A:" + "x" * (MAX_FILE_BYTES - 100) + "\n"),
    "one long name": make_calendar("X" * (MAX_FILE_BYTES - 100) + "\n"),
    "parameters without end": make_events("DTSTART" + ";A=b" * 120_000 + ":20260301"),
    "quotation marks without end": make_events('DTSTART;A="' + '";"' * 160_000),
    "open quotation marks": make_events('DTSTART;A="b' * 40_000),
    "parameters without values": make_events("DTSTART" + ";A" * 240_000),
    "a rule without end": make_events(DAY, "RRULE:FREQ=YEARLY;BYDAY=" + "1MO," * 120_000 + "1MO"),
    "rules as long as they are read": make_events(
        DAY, "RRULE:FREQ=YEARLY;BYDAY=" + ",".join(f"{n}MO,{n}TU,{n}WE,{n}TH" for n in range(1, 54))
    ),
    "many rules of an event": make_events(DAY, *["RRULE:FREQ=YEARLY"] * 20_000),
    "many rules that find nothing": make_events(DAY, "RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", count=RULES),
    "many weeks that are rare": make_events(DAY, "RRULE:FREQ=YEARLY;BYWEEKNO=53", count=RULES),
    "many positions": make_events(DAY, "RRULE:FREQ=YEARLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYSETPOS=366", count=RULES),
    "many days of years": make_events(DAY, "RRULE:FREQ=YEARLY;BYYEARDAY=" + ",".join(map(str, range(1, 300)))),
    "many long intervals": make_events(DAY, "RRULE:FREQ=DAILY;INTERVAL=366", count=RULES),
    "many rules by the day": make_events(DAY, "RRULE:FREQ=DAILY", count=RULES),
    "many different rules": make_events(DAY, "RRULE:FREQ=YEARLY;INTERVAL=300;BYMONTHDAY=1;X={}", count=RULES),
    "many rules that differ": make_events("DTSTART;VALUE=DATE:2025{}", "RRULE:FREQ=YEARLY;BYYEARDAY={}", count=300),
    "many rules that ended": make_events(
        "DTSTART;VALUE=DATE:19000101", "RRULE:FREQ=WEEKLY;UNTIL=20250101", count=RULES
    ),
    "many that are counted from long ago": make_events(
        "DTSTART;VALUE=DATE:19000101", "RRULE:FREQ=WEEKLY;COUNT=9999", count=RULES
    ),
    "many that are counted and rare": make_events(
        "DTSTART;VALUE=DATE:19000101", "RRULE:FREQ=DAILY;INTERVAL=365;COUNT=99", count=RULES
    ),
    "many that are counted and never come": make_events(
        "DTSTART;VALUE=DATE:19000101", "RRULE:FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO;BYMONTH=6;COUNT=2", count=RULES
    ),
    "many positions that never come": make_events(
        "DTSTART;VALUE=DATE:19680229",
        "RRULE:FREQ=WEEKLY;INTERVAL=7;BYDAY=SU,SA,TU,WE,FR;BYSETPOS=200;UNTIL=20260101",
        count=200,
    ),
    "many exceptions by rule": make_events(DAY, "EXRULE:FREQ=DAILY", count=200),
    "many rules": make_events(DAY, "RRULE:FREQ=YEARLY"),
    "a rule with many periods": make_events(
        "DTSTART;VALUE=DATE:19000101", "RRULE:FREQ=WEEKLY;BYDAY=MO,WE;BYSETPOS=2", count=330
    ),
    "many exceptions": make_events(
        DAY, "RRULE:FREQ=DAILY;COUNT=9", "EXDATE;VALUE=DATE:" + ",".join([DATE_LIST] * 2000), count=1
    ),
    "as many exceptions as are read": make_events(DAY, "EXDATE;VALUE=DATE:" + ",".join([DATE_LIST] * 178), count=1),
    "exceptions in UTC": make_events(*HOUR, "EXDATE:" + ",".join(["20260301T080000Z"] * 4990), count=1),
    "many dates": make_events(*HOUR, "RDATE:" + ",".join(["20260301T080000Z"] * 30_000), count=1),
    "many periods": make_events(
        *HOUR, "RDATE:" + ",".join(f"20260301T0{n % 10}{n % 6}{n % 10}00Z/PT{n + 1}S" for n in range(4990)), count=1
    ),
    "many events": make_events(DAY),
    "many events with times": make_events("UID:{}", "SUMMARY:Event {}", *HOUR),
    "many versions of one event": make_events("UID:u", DAY),
    "many occurrences of others": make_events("UID:u", "RECURRENCE-ID;VALUE=DATE:20260301", DAY),
    "many that follow": make_calendar(
        "BEGIN:VEVENT\nUID:u\nDTSTART;VALUE=DATE:20260101\nRRULE:FREQ=DAILY\nEND:VEVENT\n"
        + "".join(
            f"BEGIN:VEVENT\nUID:u\nDTSTART;VALUE=DATE:20260101\nRECURRENCE-ID;RANGE=THISANDFUTURE;VALUE=DATE:"
            f"{dt.date(2026, 1, 1) + dt.timedelta(n):%Y%m%d}\nEND:VEVENT\n"
            for n in range(MAX_EVENTS - 1)
        )
    ),
    "long events again and again": make_events(DAY, "DURATION:P3660D", "RRULE:FREQ=WEEKLY", count=RULES),
    "many long events": make_events(DAY, "DURATION:P3660D"),
    "many zones that nobody knows": repeat_piece(
        "BEGIN:VEVENT\nDTSTART;TZID=Europe/Berli{}:20260301T090000\nEND:VEVENT\n"
    ),
    "many zones": repeat_piece(make_zone("Z{}", SECONDLY)),
    "zones by the second": make_calendar(
        "".join(make_zone(f"Z{n}", SECONDLY) + ZONED_EVENT.replace("{}", str(n)) for n in range(40))
    ),
    "zones of many rules": make_calendar(make_zone("Z1", *[YEARLY] * 400) + ZONED_EVENT.replace("{}", "1") * 2),
    "zones for many years": make_calendar(
        make_zone("Z1", YEARLY)
        + "".join(ZONED_EVENT.replace("{}", "1").replace("2026", str(year)) for year in range(1900, 2400))
    ),
    "zones of many dates": make_calendar(
        make_zone(
            "Z1", "DTSTART:19700101T000000\nRDATE:" + ",".join(f"20260101T00{n % 60:02}00" for n in range(20_000))
        )
        + ZONED_EVENT.replace("{}", "1")
    ),
    "as many dates of a zone as are read": make_calendar(
        make_zone(
            "Z1",
            "DTSTART:19700101T000000\nRDATE:" + ",".join(f"202603{n % 28 + 1:02}T00{n % 60:02}00" for n in range(490)),
        )
        + ZONED_EVENT.replace("{}", "1") * 2000
    ),
    "many observances": make_calendar(make_own_zone("Z1", 499) + make_half_days("Z1")),
    "as many observances as are read": make_calendar(make_own_zone("Z1", 100) + make_half_days("Z1")),
    "a few observances": make_calendar(make_own_zone("Z1", 10) + make_half_days("Z1")),
    "rules that ended": make_calendar(
        make_zone("Z1", *[f"{YEARLY};UNTIL={1700 + n}0401T000000Z" for n in range(100)])
        + "".join(ZONED_EVENT.replace("{}", "1").replace("2026", str(year)) for year in range(1900, 2400))
    ),
    "two yearly rules": make_calendar(make_zone("Z1", YEARLY, YEARLY.replace("=3", "=10")) + make_half_days("Z1")),
    "two yearly rules by the day": make_calendar(
        make_zone("Z1", YEARLY, YEARLY.replace("=3", "=10"))
        + ZONED_EVENT.replace("{}", "1").replace("DURATION", "RRULE:FREQ=DAILY\nDURATION")
    ),
    "a known zone": make_calendar(make_half_days("Europe/Berlin")),
    "many zones of many observances": make_calendar(
        "".join(make_own_zone(f"Z{n}", 40) + ZONED_EVENT.replace("{}", str(n)) * 30 for n in range(49))
    ),
    "long texts": make_events("SUMMARY:" + "\\n" * 250_000, "UID:" + "x" * 1000, DAY),
    "UTF-16": ("BEGIN:VCALENDAR\n" * 16_000).encode("utf-16"),
    "no text": b"BEGIN:VCALENDAR\n" + b"\xff" * (MAX_FILE_BYTES - 100),
}


def measure_seconds(file: bytes) -> float:
    """Return the CPU time (s) of parsing a file, which may be refused."""
    begun = time.process_time()
    with contextlib.suppress(InvalidInput):
        parse(file, "Europe/Berlin", FIRST, END)
    return time.process_time() - begun


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_hostile_file_parsed_within_cpu_limit(file: bytes) -> None:
    assert any(measure_seconds(file) < MAX_SECONDS for _ in range(MAX_TRIES))
