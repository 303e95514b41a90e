"""Recomputation of a schedule's position when the data of its time zone change."""

import datetime as dt
import importlib.resources
import zoneinfo

import pytest

from jobworker.domain.schedules.schedule import parse
from jobworker.domain.schedules.timetable import Timetable, find_next_time, recompute_for_zone
from jobworker.transport.worker_registry import WorkerAnnouncement

UTC = dt.UTC


def _make_zone(like: str) -> zoneinfo.ZoneInfo:
    with importlib.resources.files("tzdata.zoneinfo").joinpath(*like.split("/")).open("rb") as file:
        return zoneinfo.ZoneInfo.from_file(file)


#: Clocks change at 01:00 UTC on 2026-03-29 (02:30 does not exist) and 2026-10-25 (02:30 comes twice), or never.
CHANGING_ZONE, WINTER_ZONE, SUMMER_ZONE = _make_zone("Europe/Berlin"), _make_zone("Etc/GMT-1"), _make_zone("Etc/GMT-2")


def _make_timetable(zone: zoneinfo.ZoneInfo, **fields: object) -> Timetable:
    spec = {"name": "a", "job": "a", "rule": {"kind": "daily", "time": "02:30"}, **fields}
    timetable = parse(spec).build_timetable({})
    return Timetable(timetable.rule, zone, timetable.dst, timetable.start, timetable.end)


@pytest.mark.parametrize(
    ("before", "after", "fold", "evaluated_until", "following"),
    [
        # A change of clocks is abolished, and introduced, after the time that it moves was evaluated.
        (CHANGING_ZONE, WINTER_ZONE, "first", "2026-03-29T01:30", "2026-03-30T01:30"),
        (WINTER_ZONE, CHANGING_ZONE, "first", "2026-03-29T01:30", "2026-03-30T00:30"),
        (CHANGING_ZONE, WINTER_ZONE, "first", "2026-10-25T00:30", "2026-10-26T01:30"),
        (WINTER_ZONE, CHANGING_ZONE, "first", "2026-10-25T01:30", "2026-10-26T01:30"),
        (SUMMER_ZONE, CHANGING_ZONE, "second", "2026-10-25T00:30", "2026-10-26T01:30"),
        # The day before.
        (CHANGING_ZONE, WINTER_ZONE, "first", "2026-03-28T01:30", "2026-03-29T01:30"),
        (WINTER_ZONE, CHANGING_ZONE, "first", "2026-10-24T01:30", "2026-10-25T00:30"),
    ],
)
def test_time_of_day_evaluated_once_after_zone_change(
    before: zoneinfo.ZoneInfo, after: zoneinfo.ZoneInfo, fold: str, evaluated_until: str, following: str
) -> None:
    timetable = _make_timetable(after, dst={"fold": fold})
    until = dt.datetime.fromisoformat(f"{evaluated_until}+00:00")
    expected = find_next_time(_make_timetable(before, dst={"fold": fold}), until)
    recomputed_until, next_at = recompute_for_zone(timetable, before, until, expected)
    assert f"{next_at:%Y-%m-%dT%H:%M}" == following
    assert recomputed_until >= until
    # Repeated after an interruption, it stays as it is.
    assert recompute_for_zone(timetable, before, recomputed_until, next_at)[1] == next_at


def test_schedule_without_next_time_stays_ended() -> None:
    until = dt.datetime(2026, 6, 1, tzinfo=UTC)
    assert recompute_for_zone(_make_timetable(SUMMER_ZONE), WINTER_ZONE, until, None) == (until, None)


def test_next_time_of_present_zone_data_kept() -> None:
    until = dt.datetime(2026, 6, 1, 0, 45, tzinfo=UTC)
    following = find_next_time(_make_timetable(WINTER_ZONE), until)
    assert following == dt.datetime(2026, 6, 1, 1, 30, tzinfo=UTC)
    assert recompute_for_zone(_make_timetable(WINTER_ZONE), SUMMER_ZONE, until, following) == (until, following)


def test_occurrence_moved_before_schedule_end_becomes_next() -> None:
    until, end = dt.datetime(2026, 6, 1, 12, tzinfo=UTC), "2026-06-02T01:00:00Z"
    assert find_next_time(_make_timetable(WINTER_ZONE, end=end), until) is None
    _, next_at = recompute_for_zone(_make_timetable(SUMMER_ZONE, end=end), WINTER_ZONE, until, None)
    assert next_at == dt.datetime(2026, 6, 2, 0, 30, tzinfo=UTC)


def test_announcement_without_zone_data_parsed() -> None:
    announced = WorkerAnnouncement(
        "w", "h", 1, "prefork", 1, (), (), "d", "v", dt.datetime(2026, 1, 1, tzinfo=UTC), "2026f"
    )
    assert WorkerAnnouncement.from_text(announced.to_text()) == announced
    assert WorkerAnnouncement.from_text(announced.to_text().replace(', "zone_data": "2026f"', "")).zone_data == ""
