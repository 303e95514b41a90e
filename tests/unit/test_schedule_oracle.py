"""The schedule oracle finds planted discrepancies; no other test would notice if it stopped finding them."""

import collections
import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from tests.schedule_oracle import (
    NO_DISCREPANCIES,
    Discrepancies,
    OccurrenceKey,
    OccurrenceRecord,
    ScheduledExecution,
    find_discrepancies,
    list_nominal_times,
)

BEGIN = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
TIMES: list[OccurrenceKey] = [("s", BEGIN + number * SECOND) for number in range(4)]
EXPECTED = dict.fromkeys(TIMES, "fired")
RECORDS = [OccurrenceRecord(at, "fired", f"e{number}", at[1] + SECOND / 2) for number, at in enumerate(TIMES)]
EXECUTIONS = [ScheduledExecution(f"e{number}", at) for number, at in enumerate(TIMES)]
STARTS = collections.Counter({(run.execution, 1): 1 for run in EXECUTIONS})
SECOND_OCCURRENCE = "2026-03-02T12:00:01+00:00 of s"


def test_oracle_reports_nothing_for_correct_history() -> None:
    assert find_discrepancies(EXPECTED, RECORDS, EXECUTIONS, STARTS, max_delay=SECOND) == NO_DISCREPANCIES


def test_oracle_finds_occurrence_without_row() -> None:
    discrepancies = find_discrepancies(EXPECTED, [*RECORDS[:1], *RECORDS[2:]], [*EXECUTIONS[:1], *EXECUTIONS[2:]])
    assert discrepancies == Discrepancies(missing=(f"{SECOND_OCCURRENCE} has no row",))


def test_oracle_finds_row_without_execution() -> None:
    assert find_discrepancies(EXPECTED, RECORDS, [*EXECUTIONS[:1], *EXECUTIONS[2:]]) == Discrepancies(
        missing=(f"{SECOND_OCCURRENCE} has no execution",)
    )


def test_oracle_finds_late_occurrence() -> None:
    ledger = [*RECORDS[:1], replace(RECORDS[1], recorded_at=TIMES[1][1] + 2 * SECOND), *RECORDS[2:]]
    assert find_discrepancies(EXPECTED, ledger, EXECUTIONS) == NO_DISCREPANCIES
    assert find_discrepancies(EXPECTED, ledger, EXECUTIONS, max_delay=SECOND) == Discrepancies(
        late=(f"{SECOND_OCCURRENCE} fired 2 s later",)
    )


def test_oracle_finds_row_that_no_rule_names() -> None:
    between = ("s", BEGIN + SECOND / 2)
    discrepancies = find_discrepancies(
        EXPECTED, [*RECORDS, OccurrenceRecord(between, "missed", None, BEGIN + SECOND)], EXECUTIONS
    )
    assert discrepancies == Discrepancies(
        extra=("2026-03-02T12:00:00.500000+00:00 of s is named by no rule, and is missed",)
    )


@pytest.mark.parametrize("of", ["an occurrence that has one", "nothing"])
def test_oracle_finds_extra_execution(of: str) -> None:
    at = TIMES[1] if of == "an occurrence that has one" else ("s", BEGIN - SECOND)
    [extra] = find_discrepancies(EXPECTED, RECORDS, [*EXECUTIONS, ScheduledExecution("e9", at)]).extra
    assert "has execution e9, which is not in the ledger" in extra


@pytest.mark.parametrize("again", [("e1", 1), ("e1", 2)])
def test_oracle_finds_execution_started_twice(again: tuple[str, int]) -> None:
    discrepancies = find_discrepancies(EXPECTED, RECORDS, EXECUTIONS, STARTS + collections.Counter([again]))
    assert discrepancies == Discrepancies(extra=(f"{SECOND_OCCURRENCE} began 2 times",))


def test_oracle_finds_wrong_outcome() -> None:
    ledger = [*RECORDS[:1], replace(RECORDS[1], outcome="coalesced", execution=None), *RECORDS[2:]]
    discrepancies = find_discrepancies(EXPECTED, ledger, [*EXECUTIONS[:1], *EXECUTIONS[2:]])
    assert discrepancies == Discrepancies(wrong=(f"{SECOND_OCCURRENCE} is coalesced instead of fired",))


def test_oracle_finds_row_recorded_before_its_time() -> None:
    ledger = [*RECORDS[:1], replace(RECORDS[1], recorded_at=BEGIN), *RECORDS[2:]]
    assert find_discrepancies(EXPECTED, ledger, EXECUTIONS) == Discrepancies(
        wrong=(f"{SECOND_OCCURRENCE} was recorded before its time",)
    )


@pytest.mark.parametrize(
    ("spec", "begin", "hours", "shown"),
    [
        ({"rule": {"kind": "interval", "every": 5400}}, "2026-03-02T12:00:00+00:00", 4, "12:00 13:30 15:00"),
        (
            {"rule": {"kind": "interval", "every": 3600, "anchor": "2030-01-01T00:10:00+00:00"}},
            "2026-03-02T12:00:00+00:00",
            3,
            "12:10 13:10 14:10",
        ),
        (
            {"rule": {"kind": "cron", "expression": "*/20 13 * * *"}},
            "2026-03-02T12:00:00+00:00",
            4,
            "13:00 13:20 13:40",
        ),
        ({"rule": {"kind": "cron", "expression": "5 0 13 * 1"}}, "2026-03-02T00:00:00+00:00", 24, "00:05"),
        ({"rule": {"kind": "weekly", "days": ["monday"], "time": "06:00"}}, "2026-03-02T00:00:00+00:00", 48, "06:00"),
        ({"rule": {"kind": "monthly", "day": "last", "time": "06:00"}}, "2026-02-27T12:00:00+00:00", 48, "06:00"),
        # In Berlin 02:30 does not exist on 2026-03-29, and comes twice on 2026-10-25.
        (
            {"zone": "Europe/Berlin", "rule": {"kind": "daily", "time": "02:30"}},
            "2026-03-29T00:00:00+00:00",
            6,
            "01:30",
        ),
        (
            {"zone": "Europe/Berlin", "rule": {"kind": "daily", "time": "02:30"}},
            "2026-10-25T00:00:00+00:00",
            6,
            "00:30",
        ),
        (
            {
                "zone": "Europe/Berlin",
                "rule": {"kind": "daily", "time": "02:30"},
                "dst": {"gap": "skip", "fold": "second"},
            },
            "2026-10-25T00:00:00+00:00",
            6,
            "01:30",
        ),
        (
            {"zone": "Europe/Berlin", "rule": {"kind": "cron", "expression": "30 * * * *"}},
            "2026-10-25T00:00:00+00:00",
            3,
            "00:30 01:30 02:30",
        ),
    ],
)
def test_oracle_nominal_times_follow_wall_clock(spec: dict[str, Any], begin: str, hours: int, shown: str) -> None:
    first = dt.datetime.fromisoformat(begin)
    times = list_nominal_times(spec, first, first + dt.timedelta(hours=hours))
    assert " ".join(f"{moment:%H:%M}" for moment in times) == shown


def test_oracle_nominal_times_include_seconds_of_rule() -> None:
    times = list_nominal_times(
        {"rule": {"kind": "cron", "expression": "*/20 * * * * *"}}, BEGIN + SECOND, BEGIN + 45 * SECOND
    )
    assert [moment.second for moment in times] == [20, 40]
