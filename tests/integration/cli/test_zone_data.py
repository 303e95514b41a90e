"""Reports about schedules that other time zone data will move."""

import datetime as dt
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from jobworker.clock import ManualClock, SystemClock
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.services.schedules import schedules, time_zone_updates
from jobworker.store.database.database import Database
from jobworker.store.schedules.schedule_rows import ScheduleRow
from tests import zone_data
from tests.conformance.schedule_driver import ScheduleDriver
from tests.integration.cli.conftest import CommandRunner
from tests.integration.http.conftest import create_api_driver

OLD = "2025b (tzdata 2025.2)"
MORNING = dt.datetime(2036, 12, 1, 12, tzinfo=dt.UTC)
_DAILY_SIX = {"kind": "daily", "time": "06:00"}


@pytest.fixture
def moved_schedule(tmp_path: Path, sqlite_database: Database) -> ScheduleRow:
    """Schedule that was computed by a relay with earlier data: by those, 06:00 in Vancouver is 14:00 in UTC."""
    earlier = zone_data.create_tzdata_package(tmp_path / "earlier", OLD, {"America/Vancouver": "America/Los_Angeles"})
    with zone_data.use_tzdata(earlier, OLD):
        time_zone_updates.apply_zone_data(sqlite_database, ManualClock(MORNING), lambda _: None)
        return ScheduleDriver(sqlite_database).put_schedule(
            "office", MORNING, rule=_DAILY_SIX, zone="America/Vancouver"
        )


def test_doctor_reports_schedules_that_new_zone_data_will_move(
    moved_schedule: ScheduleRow, sqlite_database: Database, run: CommandRunner
) -> None:
    message = "office (America/Vancouver): next at 2036-12-01T13:00:00+00:00 instead of 2036-12-01T14:00:00+00:00"
    doctor = run("doctor").stdout
    assert f"time_zone_data: {DATA_VERSION}" in doctor
    assert f"time_zone_data: 1 schedule moves when a relay with {DATA_VERSION} leads" in doctor
    assert f"due times were computed with {OLD}" in doctor
    assert f"{message} (1:00:00 earlier)" in doctor
    assert f"{message} (1:00:00 earlier)" in run("schedules", "show", "office").stdout
    [warning] = create_api_driver(sqlite_database).client.get("/api/v1/schedules/office").json["warnings"]
    assert message in warning

    with capture_logs() as logged:
        time_zone_updates.apply_zone_data(sqlite_database, ManualClock(MORNING), lambda _: None)
    moves = [entry["why"] for entry in logged if entry["event"] == "schedule_moved"]
    assert moves == [f"{message} (1:00:00 earlier)"]
    assert "schedule moves" not in run("doctor").stdout
    assert schedules.get(sqlite_database, SystemClock(), "office").next_at == MORNING.replace(hour=13)


def test_unreadable_zone_data_do_not_stop_the_relay(moved_schedule: ScheduleRow, sqlite_database: Database) -> None:
    with sqlite_database.write() as connection:
        connection.exec_driver_sql("UPDATE zone_data SET zones = x'00'")
    time_zone_updates.apply_zone_data(sqlite_database, ManualClock(MORNING), lambda _: None)
    assert schedules.get(sqlite_database, SystemClock(), "office").next_at == MORNING.replace(hour=13)
