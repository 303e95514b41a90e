"""Changes of time zone data at any moment: each time of day that a rule names has one occurrence."""

import datetime as dt
import zoneinfo
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from jobworker.domain.schedules.schedule import parse
from jobworker.domain.schedules.timetable import Timetable, find_next_time, recompute_for_zone

#: Pairs of zones represent one zone before and after a change of data. Offsets differ less than the times of day below.
_ZONE_CITIES = ("Vancouver", "Edmonton", "Winnipeg", "Los_Angeles", "Phoenix", "Panama")
_ZONES = st.sampled_from([f"America/{place}" for place in _ZONE_CITIES])
_TIMES = st.sampled_from([(2,), (6,), (23,), (0, 12), (2, 6), (1, 9, 17)])

_FOLDS = st.sampled_from(["first", "second"])

#: Days around changes of clocks, and other days.
_DAYS = ((3, 6), (6, 1), (10, 29), (12, 1))
_BEGINS = st.sampled_from([dt.datetime(2026, *day, tzinfo=dt.UTC) for day in _DAYS])


def _make_timetable(zone: str, hours: Sequence[int], fold: str) -> Timetable:
    rule = {"kind": "cron", "expression": f"30 {','.join(map(str, hours))} * * *"}
    return parse({"name": "a", "job": "a", "rule": rule, "zone": zone, "dst": {"fold": fold}}).build_timetable({})


@given(
    _ZONES, _ZONES, _TIMES, st.sampled_from(["first", "second"]), _BEGINS, st.integers(0, 1440), st.integers(0, 8640)
)
@example("America/Phoenix", "America/Los_Angeles", (6,), "first", dt.datetime(2026, 12, 1, tzinfo=dt.UTC), 0, 840)
def test_time_of_day_due_once_across_zone_data_change(
    old: str, new: str, hours: Sequence[int], fold: str, day: dt.datetime, begun: int, passed: int
) -> None:
    before, after = _make_timetable(old, hours, fold), _make_timetable(new, hours, fold)
    begin = day + dt.timedelta(minutes=begun)
    switch, end = begin + dt.timedelta(minutes=passed), begin + dt.timedelta(days=9)
    fired: list[dt.datetime] = []
    evaluated_until, following = begin, find_next_time(before, begin)
    while following is not None and following <= switch:
        fired.append(following)
        evaluated_until, following = following, find_next_time(before, following)

    _, following = recompute_for_zone(after, zoneinfo.ZoneInfo(old), evaluated_until, following)

    while following is not None and following <= end:
        assert following not in fired
        fired.append(following)
        following = find_next_time(after, following)
    first, last = begin.astimezone(before.zone).replace(tzinfo=None), end.astimezone(after.zone).replace(tzinfo=None)
    days = (first.date() + dt.timedelta(days=number) for number in range(-1, 12))
    named_times = [dt.datetime.combine(date, dt.time(hour, 30)) for date in days for hour in hours]
    assert len(fired) == sum(first < time <= last for time in named_times)
