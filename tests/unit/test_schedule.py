"""Rules: what is refused, and when the next occurrence is."""

import datetime as dt
import itertools
from typing import Any

import pytest

from jobworker.domain import schedule
from jobworker.domain.errors import InvalidInput
from jobworker.domain.schedule import Cron, Interval


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("every", "anchor", "moment", "expected"),
    [
        (60, "1970-01-01", "2026-03-02T12:00:00", "2026-03-02T12:01:00"),
        (60, "1970-01-01", "2026-03-02T12:00:59.999999", "2026-03-02T12:01:00"),
        (3600, "2026-01-01T00:30:00", "2026-03-02T12:00:00", "2026-03-02T12:30:00"),
        (86400, "2027-01-01T06:00:00", "2026-03-02T12:00:00", "2026-03-03T06:00:00"),
        (1.5, "2026-01-01", "2026-01-01T00:00:01.5", "2026-01-01T00:00:03"),
    ],
)
def test_an_interval_counts_from_its_anchor(every: float, anchor: str, moment: str, expected: str) -> None:
    assert Interval(every, utc(anchor)).next_after(utc(moment)) == utc(expected)


@pytest.mark.parametrize("every", [1.1, 1.3, 2.7, 7.77])
def test_an_interval_always_moves_on_by_its_length(every: float) -> None:
    rule, moment = Interval(every), utc("2026-03-02T12:00:00")
    moments = [moment := rule.next_after(moment) for _ in range(200)]
    steps = {later - earlier for earlier, later in itertools.pairwise(moments)}
    assert steps == {dt.timedelta(seconds=every)}


@pytest.mark.parametrize(
    ("expression", "zone", "moment", "expected"),
    [
        ("0 3 * * *", "UTC", "2026-03-02T03:00:00", "2026-03-03T03:00:00"),
        ("*/15 * * * * *", "UTC", "2026-03-02T12:00:01", "2026-03-02T12:00:15"),
        ("0 18 * * 5", "Europe/Berlin", "2026-07-01T00:00:00", "2026-07-03T16:00:00"),
        ("0 0 L * *", "UTC", "2028-02-10T00:00:00", "2028-02-29T00:00:00"),
        # 02:30 does not exist in Berlin on 2026-03-29; as Debian's cron does, it runs when the gap has passed.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00", "2026-03-29T01:00:00"),
        # 02:30 comes twice on 2026-10-25; it runs once.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00", "2026-10-25T00:30:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00", "2026-10-26T01:30:00"),
        # An hourly job runs in each of the 25 hours of that day.
        ("0 * * * *", "Europe/Berlin", "2026-10-25T00:00:00", "2026-10-25T01:00:00"),
    ],
)
def test_cron_follows_the_wall_clock_of_its_zone(expression: str, zone: str, moment: str, expected: str) -> None:
    assert Cron(expression, zone).next_after(utc(moment)) == utc(expected)


@pytest.mark.parametrize(
    "described",
    [
        {"kind": "interval", "every": 60},
        {"kind": "interval", "every": 1.5, "anchor": "2026-01-01T00:00:00+02:00"},
        {"kind": "cron", "expression": "0 3 * * *"},
        {"kind": "cron", "expression": "0 0 3 * * *", "zone": "Asia/Kolkata"},
    ],
)
def test_a_rule_survives_being_stored(described: dict[str, Any]) -> None:
    rule = schedule.parse(described)
    assert schedule.parse(rule.to_json()) == rule


@pytest.mark.parametrize(
    ("described", "pointer", "code"),
    [
        ({}, "/schedule/kind", "not_allowed"),
        ({"kind": "yearly"}, "/schedule/kind", "not_allowed"),
        ({"kind": "interval"}, "/schedule/every", "not_allowed"),
        ({"kind": "interval", "every": 0.5}, "/schedule/every", "not_allowed"),
        ({"kind": "interval", "every": True}, "/schedule/every", "not_allowed"),
        ({"kind": "interval", "every": "60"}, "/schedule/every", "not_allowed"),
        ({"kind": "interval", "every": float("nan")}, "/schedule/every", "not_allowed"),
        ({"kind": "interval", "every": 1e300}, "/schedule/every", "not_allowed"),
        ({"kind": "interval", "every": 10**400}, "/schedule/every", "not_allowed"),
        ({"kind": "interval", "every": 60, "anchor": "tomorrow"}, "/schedule/anchor", "wrong_type"),
        ({"kind": "interval", "every": 60, "anchor": 5}, "/schedule/anchor", "wrong_type"),
        ({"kind": "interval", "every": 60, "anchor": "2026-01-01T00:00:00"}, "/schedule/anchor", "naive_time"),
        ({"kind": "interval", "every": 60, "anchor": "0001-01-01T00:00:00+14:00"}, "/schedule/anchor", "not_allowed"),
        ({"kind": "interval", "every": 60, "zone": "UTC"}, "/schedule/zone", "unknown_field"),
        ({"kind": "cron"}, "/schedule/expression", "wrong_type"),
        ({"kind": "cron", "expression": "@daily"}, "/schedule/expression", "bad_cron"),
        ({"kind": "cron", "expression": "61 * * * *"}, "/schedule/expression", "bad_cron"),
        ({"kind": "cron", "expression": "0 0 30 2 *"}, "/schedule/expression", "bad_cron"),
        ({"kind": "cron", "expression": "0 3 * * *", "zone": "Mars/Olympus"}, "/schedule/zone", "unknown_zone"),
        ({"kind": "cron", "expression": "0 3 * * *", "zone": "../etc/passwd"}, "/schedule/zone", "unknown_zone"),
        ({"kind": "cron", "expression": "0 3 * * *", "zone": ["UTC"]}, "/schedule/zone", "unknown_zone"),
        ({"kind": "cron", "expression": "0 3 * * *", "every": 60}, "/schedule/every", "unknown_field"),
    ],
)
def test_a_wrong_rule_is_refused_at_its_place(described: dict[str, Any], pointer: str, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        schedule.parse(described)
    assert [(error.pointer, error.code) for error in caught.value.errors] == [(pointer, code)]
