"""Schedules follow changed time zone data: no occurrence fires twice, and none is lost."""

import collections
import datetime as dt
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobworker.clock import ManualClock
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.services.schedules import time_zone_updates
from jobworker.services.schedules.evaluator import evaluate_due
from jobworker.store.database.database import Database
from jobworker.store.schedules.schedule_rows import ScheduleRow
from jobworker.store.tables.schedules import job_schedules
from tests import zone_data
from tests.conformance.schedule_driver import ScheduleDriver

HOUR = dt.timedelta(hours=1)
#: Morning before the first occurrence of this day, which is at 13:00 or 14:00 in UTC.
MORNING = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)
VANCOUVER = "America/Vancouver"

RULES = {
    "daily": {"kind": "daily", "time": "06:00"},
    "twice": {"kind": "cron", "expression": "0 6,7 * * *"},
    "thrice": {"kind": "cron", "expression": "0 6,7,8 * * *"},
    "hourly": {"kind": "cron", "expression": "0 * * * *"},
    "interval": {"kind": "interval", "every": 3600},
}
TIMES = {"daily": 1, "twice": 2, "thrice": 3}


@pytest.fixture(scope="module")
def winter_time(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package of an earlier version, by which Vancouver returns to winter time: 06:00 is 14:00 in UTC."""
    return zone_data.create_tzdata_package(
        tmp_path_factory.mktemp("tzdata"), "2025b", {VANCOUVER: "America/Los_Angeles"}
    )


class ZoneDataDriver:
    """Host of a relay on which other time zone data are installed from time to time."""

    def __init__(self, schedules: ScheduleDriver, winter_time: Path) -> None:
        self.schedules = schedules
        self.clock = ManualClock(MORNING)
        self.packages = {"2025b": winter_time, DATA_VERSION: None}

    def run_relay(self, version: str, *hours: float, follows_zone_data: bool = True) -> None:
        """Start a relay with these data, and evaluate due schedules at the given hours after `MORNING`.

        `follows_zone_data` is false for a relay of an earlier release, which did not check for changed data.
        """
        with zone_data.use_tzdata(self.packages[version], version):
            if follows_zone_data:
                time_zone_updates.apply_zone_data(self.schedules.database, self.clock, lambda _: None)
            for hour in hours:
                self.clock.advance((MORNING + hour * HOUR - self.clock.now()).total_seconds())
                self.evaluate_all()

    def evaluate_all(self) -> None:
        """Evaluate all schedules."""
        with self.schedules.database.write() as connection:
            ids = list(connection.scalars(sa.select(job_schedules.c.id)))
            evaluate_due(connection, dict.fromkeys(ids, self.clock.now()), self.clock.now())

    def put_schedule(self, version: str, name: str, **fields: object) -> ScheduleRow:
        """Create a schedule in a process with these time zone data."""
        schedule_fields = {"zone": VANCOUVER, "overlap": "allow", "misfire": {"policy": "catch_up"}, **fields}
        with zone_data.use_tzdata(self.packages[version], version):
            return self.schedules.put_schedule(name, MORNING, **schedule_fields)


@pytest.fixture
def driver(database: Database, winter_time: Path) -> ZoneDataDriver:
    """Driver on SQLite, then on PostgreSQL."""
    return ZoneDataDriver(ScheduleDriver(database), winter_time)


@pytest.mark.parametrize(
    ("before", "after", "switched"),
    [
        ("2025b", DATA_VERSION, 0.8),
        ("2025b", DATA_VERSION, 1.5),
        (DATA_VERSION, "2025b", 1.5),
        (DATA_VERSION, "2025b", 2.5),
    ],
    ids=["earlier-before", "earlier-between", "later-between", "later-after"],
)
def test_occurrence_has_one_execution_across_zone_data_changes(
    driver: ZoneDataDriver, before: str, after: str, switched: float
) -> None:
    driver.run_relay(before)
    rows = {name: driver.put_schedule(before, name, rule=rule) for name, rule in RULES.items()}
    driver.run_relay(before, switched)
    driver.run_relay(after, switched, 2.6, 4, 28)

    fired = {
        name: [occurrence.scheduled_for for occurrence in driver.schedules.list_occurrences(row)]
        for name, row in rows.items()
    }
    assert all(
        occurrence.outcome == "fired" for row in rows.values() for occurrence in driver.schedules.list_occurrences(row)
    )
    for name, times in TIMES.items():
        # An occurrence that is late because its time had passed under the new data belongs to the same day.
        assert collections.Counter(moment.date() for moment in fired[name]) == {
            MORNING.date(): times,
            MORNING.date() + dt.timedelta(days=1): times,
        }, name
    # Elapsed hours do not depend on clock changes.
    assert fired["hourly"] == fired["interval"] == [MORNING + number * HOUR for number in range(1, 29)]


def test_host_zone_data_counts_as_data_of_earlier_releases(
    driver: ZoneDataDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    casablanca = {"Africa/Casablanca": "Etc/GMT-1"}
    monkeypatch.setattr(
        time_zone_updates, "HOST_FOLDERS", (str(zone_data.create_tzpath(tmp_path / "host", casablanca)),)
    )
    driver.packages["2025b"] = zone_data.create_tzdata_package(tmp_path / "earlier", "2025b", casablanca)
    row = driver.put_schedule("2025b", "daily", rule=RULES["daily"], zone="Africa/Casablanca")
    driver.run_relay("2025b", 17.5, follows_zone_data=False)
    driver.run_relay(DATA_VERSION, 18.5, 30)
    # The occurrence of 06:00 on this day fired at 05:00 UTC and is not due again at 06:00 UTC.
    assert [occurrence.scheduled_for for occurrence in driver.schedules.list_occurrences(row)] == [MORNING + 17 * HOUR]
    assert driver.schedules.get_schedule(row).next_at == MORNING + 42 * HOUR
