"""Schedules described in English."""

from typing import Any

import pytest

from jobworker.domain.schedules import description, schedule

BUSINESS = {"kind": "business_day", "n": 10, "time": "18:00"}
WEEKLY = {"kind": "rrule", "expression": "FREQ=WEEKLY;INTERVAL=2;BYDAY=WE,MO;COUNT=4", "start": "2026-01-05T06:00:00"}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"kind": "once", "at": "2026-12-01T01:00:00+01:00"}, "once, at 2026-12-01 00:00 UTC"),
        ({"kind": "interval", "every": 900}, "every 15 minutes"),
        ({"kind": "interval", "every": 3600}, "every hour"),
        ({"kind": "interval", "every": 5400.5}, "every 1 hour 30 minutes 0.5 seconds"),
        (
            {"kind": "interval", "every": 60, "anchor": "2026-01-01T00:00:05Z"},
            "every minute, counted from 2026-01-01 00:00:05 UTC",
        ),
        ({"kind": "daily", "time": "06:00"}, "every day at 06:00 (UTC)"),
        ({"kind": "weekly", "days": ["monday"], "time": "18:30:15"}, "every Monday at 18:30:15 (UTC)"),
        (
            {"kind": "weekly", "days": ["friday", "monday", "tuesday"], "time": "06:00"},
            "every Monday, Tuesday and Friday at 06:00 (UTC)",
        ),
        (
            {"kind": "weekly", "days": ["monday", "tuesday", "wednesday", "thursday", "friday"], "time": "06:00"},
            "every weekday at 06:00 (UTC)",
        ),
        ({"kind": "monthly", "day": 1, "time": "06:00"}, "on day 1 of each month at 06:00 (UTC)"),
        ({"kind": "monthly", "day": 31, "time": "06:00"}, "on day 31 of each month that has it at 06:00 (UTC)"),
        ({"kind": "monthly", "day": "last", "time": "06:00"}, "on the last day of each month at 06:00 (UTC)"),
        (
            {**BUSINESS, "n": -1},
            "on the last business day of each month at 18:00 (UTC), Monday to Friday being business days",
        ),
        (
            {**BUSINESS, "n": -2},
            "on the 2nd to last business day of each month at 18:00 (UTC), Monday to Friday being business days",
        ),
        ({"kind": "interval", "every": 1.0000001}, "every second"),
        ({"kind": "interval", "every": 60.1}, "every 1 minute 0.1 seconds"),
        ({"kind": "interval", "every": 59.9999999}, "every minute"),
        ({"kind": "interval", "every": 1.000001}, "every 1.000001 seconds"),
        ({"kind": "cron", "expression": "0 9-17 * * MON-FRI"}, None),
        ({"kind": "cron", "expression": "@daily"}, "at 00:00 every day (UTC)"),
        (WEEKLY, "every 2 weeks on Monday and Wednesday, counted from 2026-01-05 06:00, 4 times (UTC)"),
        (
            {"kind": "rrule", "expression": "FREQ=MONTHLY;BYDAY=1MO", "start": "2026-01-05T06:00:00"},
            "by the recurrence rule FREQ=MONTHLY;BYDAY=1MO, counted from 2026-01-05 06:00 (UTC)",
        ),
    ],
)
def test_rule_described_in_english(rule: dict[str, Any], expected: str | None) -> None:
    text = description.describe_schedule(schedule.parse({"name": "a", "job": "b", "rule": rule}))
    if expected is None:
        # cronsim writes this description.
        assert "Monday through Friday" in text
        assert text[0].islower()
    else:
        assert text == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 0 13 * 5", "at 00:00 either on the 13th day of month or on Friday"),
        ("30 4 1,15 * 5", "at 04:30 either on the first and the 15th day of month or on Friday"),
        ("0 0 29 2 1", "at 00:00 either on the 29th day of month or on Monday, in February"),
        ("0 0 L * 5", "at 00:00 either on the last day of the month or on Friday"),
        ("0 0 */13 * 5", "at 00:00 on every 13th day of month if it's on Friday"),
        ("*/30 * * * *", "every 30 minutes"),
        ("*/2 * * * *", "every 2 minutes"),
        ("*/7 * * * *", "every 7 minutes from the start of every hour"),
        ("*/15 * * * * *", "every 15 seconds"),
        ("*/7 * * * * *", "every 7 seconds from the start of every minute"),
        ("*/15 9 * * MON-FRI", "every 15 minutes from 09:00 through 09:59 on Monday through Friday"),
        ("10-40/10 * * * *", "every 10 minutes from 10 through 40 of every hour"),
        ("0 */2 * * *", "at minute 0 past every second hour"),
        ("* * * * * *", "every second"),
        ("0 0 31 * *", "at 00:00 on the 31st day of every month"),
        ("0 0 22 * *", "at 00:00 on the 22nd day of every month"),
        ("0 0 11 * *", "at 00:00 on the 11th day of every month"),
        ("@monthly", "at 00:00 on the first day of every month"),
    ],
)
def test_cron_expression_described_in_english(expression: str, expected: str) -> None:
    rule = {"kind": "cron", "expression": expression}
    parsed = schedule.parse({"name": "a", "job": "b", "rule": rule})
    assert description.describe_schedule(parsed) == f"{expected} (UTC)"


def test_max_runs_described_after_run_at_start() -> None:
    rule = {"kind": "once", "at": "2026-12-01T00:00:00Z"}
    parsed = schedule.parse({"name": "a", "job": "b", "rule": rule, "max_runs": 1, "run_at_start": True})
    expected = "once, at 2026-12-01 00:00 UTC, and whenever the system starts, at most 1 time"
    assert description.describe_schedule(parsed) == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"zone": "Europe/Berlin", "calendar": "DE"}, " (Europe/Berlin), as calendar DE counts"),
        (
            {"calendar": "DE", "rule": {**BUSINESS, "roll": "preceding"}},
            ", the business day before if it is closed then",
        ),
        ({"dst": {"gap": "skip", "fold": "both"}}, ", left out when clocks skip it, both times when it comes twice"),
        ({"require": ["office"]}, ", only within calendar office"),
        ({"exclude": ["a", "b", "c"]}, ", not within calendars a, b and c"),
        (
            {"start": "2026-01-01T00:00:00Z", "end": "2027-01-01T00:00:00Z"},
            ", from 2026-01-01 00:00 UTC on, until 2027-01-01 00:00 UTC",
        ),
        ({"max_runs": 1}, ", at most 1 time"),
        ({"initial_delay": 90}, ", not in the first 1 minute 30 seconds after its creation"),
        ({"run_at_start": True}, ", and whenever the system starts"),
        ({"enabled": False}, ", but it is disabled"),
        ({"jitter": 300}, ", up to 5 minutes later, by chance each time"),
        ({"spread": 300}, ", up to 5 minutes later, always by the same share"),
    ],
)
def test_schedule_bounds_described(more: dict[str, Any], expected: str) -> None:
    parsed = schedule.parse({"name": "a", "job": "b", "rule": BUSINESS, **more})
    assert expected in description.describe_schedule(parsed)
