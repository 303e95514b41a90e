"""Time zones of iCalendar files: IANA names, and the VTIMEZONE components that a file defines."""

import datetime as dt
import zoneinfo

import pytest

from jobworker.domain.calendars.icalendar.content_lines import ParsingEffort, parse_calendars
from jobworker.domain.calendars.icalendar.time_zones import ICalendarTimeZone, ICalendarTimeZones
from tests.unit.icalendar_events import (
    BERLIN,
    DAY,
    HOUR,
    format_contents,
    list_refused,
    make_calendar,
    make_event,
    read_contents,
)


def test_tzid_utc_does_not_set_calendar_zone() -> None:
    named = "DTSTART;TZID=UTC:20260303T080000\nDURATION:PT1H"
    contents = read_contents(make_event(HOUR), make_event(named, "v"))
    assert (format_contents(contents), contents.zone) == (["03-02 09:00-10:00", "03-03 09:00-10:00"], "Europe/Berlin")


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


def test_vtimezone_with_ended_summer_time_keeps_winter_offset() -> None:
    ended = BERLIN.format("Own").replace("BYMONTH=10", "BYMONTH=10;UNTIL=20251026T010000Z")
    own = read_file(ended.replace("BYMONTH=3\n", "BYMONTH=3;UNTIL=20250330T010000Z\n"))
    assert {dt.datetime(2030, month, 1, tzinfo=own).utcoffset() for month in range(1, 13)} == {dt.timedelta(hours=1)}
    assert dt.datetime(2025, 7, 1, tzinfo=own).utcoffset() == dt.timedelta(hours=2)


def test_vtimezone_with_rdate_onsets_changes_offset_at_each() -> None:
    part = "BEGIN:{0}\nDTSTART:{1}\nTZOFFSETFROM:{2}\nTZOFFSETTO:{3}\nRDATE:{4}\nEND:{0}\n"
    summer = part.format("DAYLIGHT", "20250330T020000", "+0100", "+0200", "20260329T020000")
    winter = part.format("STANDARD", "20251026T030000", "+0200", "+0100", "20261025T030000")
    own = read_file(f"BEGIN:VTIMEZONE\nTZID:Own\n{summer}{winter}END:VTIMEZONE\n")
    hours = [dt.datetime(year, month, 1, tzinfo=own).utcoffset() for year in (2024, 2026, 2027) for month in (1, 7)]
    assert hours == [dt.timedelta(hours=number) for number in (1, 1, 1, 2, 1, 1)]


@pytest.mark.parametrize("name", ["Customized Time Zone", "(UTC+01:00) Amsterdam, Berlin", "Company: HQ; 1"])
def test_vtimezone_with_custom_name_used(name: str) -> None:
    lines = f'DTSTART;TZID="{name}":20260302T090000\nDTEND;TZID="{name}":20260302T100000'
    contents = read_contents(BERLIN.format(name), make_event(lines))
    assert (format_contents(contents), contents.zone) == (["03-02 09:00-10:00"], name)
    assert format_contents(read_contents(BERLIN.format(name), make_event(lines), zone="UTC")) == ["03-02 08:00-09:00"]
    located = BERLIN.format(name).replace("BEGIN:STANDARD", "X-LIC-LOCATION:Europe/Rome\nBEGIN:STANDARD")
    assert read_contents(located, make_event(lines)).zone == "Europe/Rome"


def test_escaped_commas_in_vtimezone_name_matched() -> None:
    name = "(GMT+01:00) Amsterdam, Berlin, Rome"
    defined = BERLIN.format(name.replace(",", r"\,"))
    contents = read_contents(defined, make_event(f'DTSTART;TZID="{name}":20260302T090000\nDURATION:PT1H'))
    assert (format_contents(contents), contents.zone) == (["03-02 09:00-10:00"], name)


def test_vtimezone_onset_in_19th_century_accepted() -> None:
    part = "BEGIN:STANDARD\nDTSTART:18831118T120358\nTZOFFSETFROM:-045602\nTZOFFSETTO:-0500\n{}\nEND:STANDARD\n"
    own = read_file(f"BEGIN:VTIMEZONE\nTZID:Own\n{part.format('RDATE:18831118T120358')}END:VTIMEZONE\n")
    offsets = [dt.datetime(1883, 11, day, tzinfo=own).utcoffset() for day in (17, 19)]
    assert offsets == [-dt.timedelta(hours=4, minutes=56, seconds=2), -dt.timedelta(hours=5)]


def test_vtimezone_onset_in_year_one_rejected() -> None:
    zone = BERLIN.format("Own").replace("16010101T03", "00010101T00")
    [message] = list_refused(zone.replace("RRULE:", "X-A:"), make_event("DTSTART;TZID=Own:20260302T090000"))
    assert "the VTIMEZONE of 'Own' cannot be read" in message
    assert dt.datetime(2026, 7, 1, tzinfo=read_file(zone.replace("00010101", "00020101"))).utcoffset() == dt.timedelta(
        hours=2
    )


@pytest.mark.parametrize("count", [101, 2001])
def test_vtimezone_with_too_many_observances_rejected(count: int) -> None:
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
def test_unreadable_vtimezone_rejected_only_where_used(old: str, new: str, says: str) -> None:
    zone = BERLIN.format("Own").replace(old, new)
    [message] = list_refused(zone, make_event("DTSTART;TZID=Own:20260302T090000", name="Freeze"))
    assert message.startswith("event 'Freeze' (UID u): DTSTART: the VTIMEZONE of 'Own' cannot be read: ")
    assert says in message
    assert format_contents(read_contents(zone, make_event(DAY))) == ["03-02"]
