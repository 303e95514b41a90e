"""Time windows and outages as users write them."""

import datetime as dt
import zoneinfo

import pytest

from jobworker.domain.schedules import time_windows

UTC, BERLIN = zoneinfo.ZoneInfo("UTC"), zoneinfo.ZoneInfo("Europe/Berlin")


def parse_time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("value", "zone", "moment"),
    [
        ("2026-03-28", UTC, "2026-03-28T00:00Z"),
        ("2026-03-28", BERLIN, "2026-03-27T23:00Z"),
        ("2026-03-28T12:00", BERLIN, "2026-03-28T11:00Z"),
        ("2026-03-28T12:00+05:00", BERLIN, "2026-03-28T07:00Z"),
        (dt.date(2026, 7, 1), BERLIN, "2026-06-30T22:00Z"),
        (dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC), BERLIN, "2026-07-01T12:00Z"),
    ],
)
def test_time_window_moment_parsed_in_zone(value: str | dt.date, zone: zoneinfo.ZoneInfo, moment: str) -> None:
    assert time_windows.parse_moment(value, zone) == parse_time(moment)


@pytest.mark.parametrize(
    ("text", "zone", "spans"),
    [
        ("01:00-04:00", UTC, ["28T01:00/28T04:00", "29T01:00/29T04:00"]),
        ("23:00-01:00", UTC, ["27T23:00/28T01:00", "28T23:00/29T01:00", "29T23:00/30T01:00"]),
        ("01:00-04:00", BERLIN, ["28T00:00/28T03:00", "29T00:00/29T02:00", "29T23:00/30T02:00"]),
        ("2026-03-28T12:00/2026-03-29", UTC, ["28T12:00/29T00:00"]),
    ],
)
def test_outage_spans_parsed(text: str, zone: zoneinfo.ZoneInfo, spans: list[str]) -> None:
    outages = time_windows.parse_outages(text, parse_time("2026-03-28T00:00Z"), parse_time("2026-03-30T00:00Z"), zone)
    assert [f"{outage.begin:%dT%H:%M}/{outage.end:%dT%H:%M}" for outage in outages] == spans


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("at night", "must be times of each day such as 01:00-04:00, or BEGIN/END"),
        ("25:00-26:00", "'25:00' is not a time of day"),
        ("01:00-01:00", "the whole day"),
        ("2026-03-29/2026-03-28", "must end later"),
        ("2026-03-29/tomorrow", "'tomorrow' must be a date such as"),
    ],
)
def test_invalid_outage_rejected(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        time_windows.parse_outages(text, parse_time("2026-03-28T00:00Z"), parse_time("2026-03-30T00:00Z"), UTC)
