"""Benchmark of the search for the next time of a rule, against croniter where it supports the rule."""

import datetime as dt
import statistics
import time
import zoneinfo
from collections.abc import Callable
from typing import Any

import croniter  # type: ignore[import-untyped]

from bench.report import Measurement, expect_at_most
from jobworker.domain.schedules import schedule
from jobworker.domain.schedules.timetable import Timetable, find_next_time

_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo", "Africa/Casablanca")
_CALL_COUNT = 300
_BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_STEP = dt.timedelta(hours=29, minutes=7)

_CRON = "*/15 8-18 * * MON-FRI"

_RULES: dict[str, dict[str, Any]] = {
    "interval": {"kind": "interval", "every": 900},
    "daily": {"kind": "daily", "time": "02:30"},
    "weekly": {"kind": "weekly", "days": ["monday", "friday"], "time": "06:00"},
    "monthly": {"kind": "monthly", "day": "last", "time": "06:00"},
    "business day": {"kind": "business_day", "n": 10, "time": "18:00", "roll": "preceding"},
    "cron": {"kind": "cron", "expression": _CRON},
    "cron for Feb 29": {"kind": "cron", "expression": "0 0 29 2 *"},
    "RRULE monthly": {"kind": "rrule", "expression": "FREQ=MONTHLY;BYDAY=-1FR"},
    "RRULE with COUNT": {"kind": "rrule", "expression": "FREQ=DAILY;COUNT=1000", "start": "2026-01-01T06:00:00"},
    "RRULE that never fires": {"kind": "rrule", "expression": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYWEEKNO=20"},
}


def measure_rules() -> list[Measurement]:
    """Measure the CPU time of a call (µs): the median and the maximum, including the first call of a zone and year."""
    figures = []
    for name, rule in _RULES.items():
        times = [microseconds for zone in _ZONES for microseconds in _time_timetable(rule, zone)]
        peer = {"croniter": statistics.median(_time_croniter())} if name == "cron" else {}
        figures.append(Measurement(f"next moment of a rule, {name}: median", "µs", statistics.median(times), peer))
        figures.append(
            Measurement(f"next moment of a rule, {name}: the dearest", "µs", max(times), target=expect_at_most(10_000))
        )
    return figures


def _time_timetable(rule: dict[str, Any], zone: str) -> list[float]:
    table: Timetable = schedule.parse({"name": "bench", "job": "bench", "rule": rule, "zone": zone}).build_timetable({})
    return _time_calls(lambda moment: find_next_time(table, moment))


def _time_croniter() -> list[float]:
    zone = zoneinfo.ZoneInfo(_ZONES[1])
    return _time_calls(lambda moment: croniter.croniter(_CRON, moment.astimezone(zone)).get_next(dt.datetime))


def _time_calls(call: Callable[[dt.datetime], object]) -> list[float]:
    times = []
    for number in range(_CALL_COUNT):
        began = time.process_time_ns()
        call(_BEGIN + number * _STEP)
        times.append((time.process_time_ns() - began) / 1000)
    return times
