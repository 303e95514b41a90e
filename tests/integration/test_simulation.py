"""Simulation of schedules on virtual time."""

import datetime as dt
import itertools
import zoneinfo
from collections.abc import Sequence
from typing import Any

import pytest

from jobworker import calendar, cron, daily, every, once, schedule
from jobworker.declare.declarations import Declarations, collect_declarations
from jobworker.domain.errors import InvalidInput, ScheduleNotFound
from jobworker.domain.schedules.rules.calendar_days import DailyRule
from jobworker.domain.schedules.time_windows import Outage
from jobworker.services.schedules import pauses, schedules, simulation
from jobworker.services.schedules.simulation import SimulatedOccurrence, SimulationOptions
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from tests.conformance.execution_driver import ExecutionDriver

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def parse_time(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"2026-{text}Z" if "T" in text else f"2026-{text}T00:00Z")


def write_code(name: str = "s", **fields: Any) -> Declarations:
    """Return declarations with one schedule."""
    with collect_declarations() as declarations:
        schedule(name, **{"job": "load", **fields})
    return declarations


def list_outcomes(occurrences: Sequence[SimulatedOccurrence]) -> list[tuple[str, str]]:
    """Return due time (UTC) and outcome of each occurrence."""
    return [
        (f"{occurrence.scheduled_for.astimezone(dt.UTC):%m-%dT%H:%M}", occurrence.outcome.value)
        for occurrence in occurrences
    ]


def run_real_schedules(declared: Declarations, begin: str, end: str, **more: Any) -> list[SimulatedOccurrence]:
    return list(
        simulation.simulate_code(declared, SimulationOptions(parse_time(begin), parse_time(end), **more)).occurrences
    )


def test_simulation_lists_every_occurrence_in_local_time() -> None:
    occurrences = run_real_schedules(
        write_code(rule=daily("02:30"), zone="Europe/Berlin"), "03-27", "03-31", duration=600
    )
    assert list_outcomes(occurrences) == [
        ("03-27T01:30", "fired"),
        ("03-28T01:30", "fired"),
        ("03-29T01:30", "fired"),
        ("03-30T00:30", "fired"),
    ]
    assert [occurrence.scheduled_for.strftime("%H:%M %Z") for occurrence in occurrences] == [
        "02:30 CET",
        "02:30 CET",
        "03:30 CEST",
        "02:30 CEST",
    ], "the clocks skip 02:30 on the 29th"
    last = occurrences[-1]
    assert last.started_at == last.settled_at == last.scheduled_for
    assert last.ended_at == last.scheduled_for + dt.timedelta(minutes=10)


def test_simulation_includes_its_begin_and_excludes_its_end() -> None:
    assert list_outcomes(run_real_schedules(write_code(rule=every(3600)), "01-01", "01-01T02:00")) == [
        ("01-01T00:00", "fired"),
        ("01-01T01:00", "fired"),
    ]


_NIGHT = [Outage(parse_time("01-01T00:30"), parse_time("01-01T03:30"))]


@pytest.mark.parametrize(
    ("misfire", "outcomes"),
    [
        ({"policy": "skip"}, ["missed", "missed", "missed", "fired"]),
        ({"policy": "fire_once"}, ["coalesced", "coalesced", "fired", "fired"]),
        ({"policy": "catch_up", "max": 2}, ["missed", "fired", "fired", "fired"]),
        ({"policy": "skip", "grace": 7200}, ["missed", "fired", "fired", "fired"]),
    ],
)
def test_misfire_policy_decides_after_an_outage(misfire: Any, outcomes: list[str]) -> None:
    occurrences = run_real_schedules(
        write_code(rule=every(3600), misfire=misfire, overlap="allow"), "01-01T00:10", "01-01T04:30", outages=_NIGHT
    )
    assert list_outcomes(occurrences) == [
        (f"01-01T0{hour}:00", outcome) for hour, outcome in enumerate(outcomes, start=1)
    ]
    late = [occurrence for occurrence in occurrences if occurrence.scheduled_for < _NIGHT[0].end]
    assert {occurrence.settled_at for occurrence in late} == {_NIGHT[0].end}
    assert all(occurrence.started_at is None or occurrence.started_at == _NIGHT[0].end for occurrence in late)


@pytest.mark.parametrize(
    ("overlap", "outcomes"),
    [
        ("skip", ["Succeeded", None, None, "Succeeded"]),
        ("allow", ["Succeeded"] * 4),
        ("queue_all", ["Succeeded"] * 4),
        ("queue_one", ["Succeeded", "Succeeded", None, "Succeeded"]),
        ("cancel_running", ["Cancelled", "Cancelled", "Cancelled", "Succeeded"]),
    ],
)
def test_assumed_duration_causes_overlaps(overlap: str, outcomes: list[str | None]) -> None:
    occurrences = run_real_schedules(
        write_code(rule=every(3600), overlap=overlap), "01-01", "01-01T04:00", duration=9000
    )
    assert [occurrence.state.value if occurrence.state else None for occurrence in occurrences] == outcomes
    spans = sorted(
        (occurrence.started_at, occurrence.ended_at)
        for occurrence in occurrences
        if occurrence.started_at and occurrence.ended_at
    )
    one_by_one = all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert one_by_one is (overlap != "allow")


def test_reason_names_the_occurrence_instead_of_an_execution() -> None:
    _, skipped = run_real_schedules(write_code(rule=every(3600)), "01-01", "01-01T02:00", duration=5400)
    assert skipped.reason == "the execution of 2026-01-01T00:00:00Z had not ended"


def test_durations_apply_to_named_schedules() -> None:
    declared = write_code(rule=every(3600))
    with collect_declarations() as extra:
        schedule("long", job="load", rule=every(3600))
    declared.schedules.update(extra.schedules)
    occurrences = run_real_schedules(declared, "01-01", "01-01T02:00", durations={"long": 5400})
    assert [(occurrence.schedule, occurrence.outcome.value) for occurrence in occurrences] == [
        ("long", "fired"),
        ("s", "fired"),
        ("long", "skipped_overlap"),
        ("s", "fired"),
    ]


def test_max_runs_calendars_and_jitter_are_applied() -> None:
    with collect_declarations() as declared:
        calendar("closed", kind="dates", days=["2026-01-02"])
        schedule("s", job="load", rule=daily("12:00"), exclude=["closed"], max_runs=2, jitter=3600)
    occurrences = run_real_schedules(declared, "01-01", "01-06")
    assert list_outcomes(occurrences) == [
        ("01-01T12:00", "fired"),
        ("01-02T12:00", "skipped_calendar"),
        ("01-03T12:00", "fired"),
        ("01-04T12:00", "exhausted"),
    ]
    assert occurrences[0].started_at is not None
    assert dt.timedelta(0) < occurrences[0].started_at - occurrences[0].scheduled_for < dt.timedelta(hours=1)


def test_simulation_stops_at_its_limit() -> None:
    result = simulation.simulate_code(
        write_code(rule=every(1), overlap="allow"),
        SimulationOptions(parse_time("01-01"), parse_time("12-31"), limit=50),
    )
    assert len(result.occurrences) == 50
    assert result.stopped_at == parse_time("01-01") + dt.timedelta(seconds=50)
    nothing = simulation.simulate_code(
        write_code(rule=once("2020-01-01T00:00Z")), SimulationOptions(parse_time("01-01"), parse_time("12-31"))
    )
    assert (nothing.occurrences, nothing.stopped_at) == ([], None)


def test_outage_beyond_the_end_leaves_occurrences_unevaluated() -> None:
    outage = Outage(parse_time("01-01T01:30"), parse_time("01-03"))
    result = simulation.simulate_code(
        write_code(rule=every(3600)), SimulationOptions(parse_time("01-01"), parse_time("01-02"), [outage], duration=60)
    )
    assert list_outcomes(result.occurrences) == [("01-01T00:00", "fired"), ("01-01T01:00", "fired")]
    assert result.unevaluated == {"s": parse_time("01-01T02:00")}


def test_outage_at_the_begin_delays_the_first_occurrence() -> None:
    occurrences = run_real_schedules(
        write_code(rule=every(3600)),
        "01-01",
        "01-01T02:00",
        outages=[Outage(parse_time("01-01"), parse_time("01-01T00:30"))],
    )
    assert [f"{occurrence.settled_at:%H:%M}" for occurrence in occurrences] == ["00:30", "01:00"]


def test_database_pause_holds_and_ends_in_the_simulation(sqlite_database: Database) -> None:
    driver = ExecutionDriver(sqlite_database)
    described = {"name": "s", "job": "load", "rule": {"kind": "interval", "every": 3600}, "on_resume": "fire_once"}
    schedules.create(sqlite_database, driver.clock, described, "ann")
    with sqlite_database.write() as connection:
        row = schedules.find(connection, "s")
        pauses.pause_schedule(connection, row, "moving", parse_time("06-01T01:30"), "ann", driver.clock.now())
    question = SimulationOptions(parse_time("06-01"), parse_time("06-01T03:00"), duration=60)
    occurrences = simulation.simulate_database(sqlite_database, question).occurrences
    assert list_outcomes(occurrences) == [
        ("06-01T00:00", "skipped_paused"),
        ("06-01T01:00", "fired"),
        ("06-01T02:00", "fired"),
    ]
    assert occurrences[1].started_at == parse_time("06-01T01:30")
    assert "moving" in (occurrences[0].reason or "")


def test_undeclarable_schedule_is_rejected() -> None:
    with pytest.raises(InvalidInput, match=r"schedule s .*/exclude/0: there is no calendar 'DE'"):
        run_real_schedules(write_code(rule=daily("12:00"), exclude=["DE"]), "01-01", "01-02")


def test_database_and_code_can_be_simulated_side_by_side(sqlite_database: Database) -> None:
    driver = ExecutionDriver(sqlite_database)
    for name, time in (("mine", "06:00"), ("other", "07:00")):
        described = {"name": name, "job": "load", "rule": DailyRule(dt.time.fromisoformat(time)).to_json()}
        schedules.create(sqlite_database, driver.clock, described, "ann")
    question = SimulationOptions(parse_time("06-01"), parse_time("06-02"))

    def names(*chosen: str, code: Declarations | None = None) -> list[str]:
        if code is not None:
            result = simulation.simulate_code(code, question, chosen or None, sqlite_database)
        else:
            result = simulation.simulate_database(sqlite_database, question, chosen or None)
        return [occurrence.schedule for occurrence in result.occurrences]

    assert names() == ["mine", "other"]
    assert names("other") == ["other"]
    assert names(code=write_code(rule=cron("0 9 * * *"))) == ["s"]
    with pytest.raises(ScheduleNotFound):
        names("nobody")
    with pytest.raises(InvalidInput, match=r"schedule mine .*made over HTTP"):
        names(code=write_code("mine", rule=daily("12:00")))
    with sqlite_database.read() as connection:
        assert [row.name for row in schedule_rows.list_all(connection)] == ["mine", "other"]


def test_definitions_of_the_database_are_applied(sqlite_database: Database) -> None:
    driver = ExecutionDriver(sqlite_database)
    driver.define_job("load", enabled=False)
    described = {"name": "s", "job": "load", "rule": {"kind": "daily", "time": "06:00"}}
    schedules.create(sqlite_database, driver.clock, described, "ann")
    [only] = simulation.simulate_database(
        sqlite_database, SimulationOptions(parse_time("06-01"), parse_time("06-02"))
    ).occurrences
    assert (only.outcome.value, only.reason) == ("skipped_paused", "job load is disabled")
    assert only.state is None


def test_code_with_unknown_jobs_is_simulated(sqlite_database: Database) -> None:
    ExecutionDriver(sqlite_database)
    with collect_declarations() as declared:
        schedule("mine", job="load", rule=daily("06:00"))
        schedule("early", job="nowhere", rule=daily("07:00"), parameters={"any": 1})
        schedule("wrong", job="strict", rule=daily("08:00"), parameters={"rows": "many"})
    question = SimulationOptions(parse_time("06-01"), parse_time("06-02"))
    result = simulation.simulate_code(declared, question, ["mine", "early"], sqlite_database)
    assert [occurrence.schedule for occurrence in result.occurrences] == ["mine", "early"]
    assert result.assumed_jobs == ["nowhere"]
    with pytest.raises(InvalidInput, match=r"schedule wrong .*/parameters/rows: "):
        simulation.simulate_code(declared, question, None, sqlite_database)
    with pytest.raises(ScheduleNotFound, match=r"code declares no schedule 'nope'\. It declares early, mine, wrong"):
        simulation.simulate_code(declared, question, ["nope"], sqlite_database)


@pytest.mark.parametrize(
    ("begin", "end", "more", "message"),
    [
        ("01-02", "01-01", {}, r"the end, 2026-01-01T00:00:00\+00:00, must be later than the beginning"),
        ("01-01", "01-02", {"duration": -1}, "the duration is -1; it must be a number of seconds, 0 or more"),
        ("01-01", "01-02", {"durations": {"s": -3}}, "the duration of schedule s is -3"),
        ("01-01", "01-02", {"duration": float("nan")}, "the duration is nan"),
    ],
)
def test_invalid_options_are_rejected(begin: str, end: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        SimulationOptions(parse_time(begin), parse_time(end), **more)


def test_duration_of_unknown_schedule_is_rejected(sqlite_database: Database) -> None:
    question = SimulationOptions(parse_time("01-01"), parse_time("01-02"), durations={"t": 3})
    with pytest.raises(ScheduleNotFound, match="code declares no schedule 't'"):
        simulation.simulate_code(write_code(rule=daily("12:00")), question)
    with pytest.raises(ScheduleNotFound, match="there is no schedule 't'"):
        simulation.simulate_database(sqlite_database, question)
