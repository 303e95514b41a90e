"""Time zone data: processes use those of the package `tzdata` instead of the host's, and report their version."""

import datetime as dt
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobworker import daily
from jobworker.domain.schedules.schedule import ScheduleOwner, parse
from jobworker.domain.schedules.time_zones import DATA_VERSION
from jobworker.domain.schedules.timetable import find_next_time
from jobworker.services.schedules import time_zone_updates
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from jobworker.store.schedules.schedule_rows import ScheduleRow
from tests import zone_data
from tests.engine import Engine
from tests.polling import wait_until
from tests.zone_data import EXPECTED_UTC_TIMES

_WRONG_ZONES = dict.fromkeys(EXPECTED_UTC_TIMES, "Asia/Tokyo")

_PRINT_ZONE_DATA = """
import datetime as dt, json, sys, zoneinfo
names = json.loads(sys.argv[1])
early = [zoneinfo.ZoneInfo(name) for name in names]  # Loaded by others before JobWorker is imported.
from jobworker import daily
from jobworker.domain.schedules.schedule import parse
from jobworker.domain.schedules.timetable import find_next_time
from jobworker.testing.simulator import Simulator
from jobworker.web import create_app

def by_domain(name):
    made = parse({"name": "a", "job": "a", "rule": daily("06:00"), "zone": name})
    return find_next_time(made.build_timetable({}), dt.datetime(2026, 12, 1, tzinfo=dt.UTC))

def by_http(name):
    asked = {"rule": {"kind": "daily", "time": "06:00"}, "zone": name, "from": "2026-12-01T00:00:00Z", "count": 1}
    answer = client.post("/api/v1/schedules/preview", json=asked).json
    return dt.datetime.fromisoformat(answer["occurrences"][0]["scheduled_for"])

client = create_app().test_client()
simulated = {each.schedule: each.scheduled_for.astimezone(dt.UTC) for each in Simulator()("2026-12-01", "2026-12-02")}
for name in names:
    found = by_domain(name), by_http(name), simulated[name.replace("/", "-")]
    print(name, *(f"{at:%H:%M}" for at in found))
"""

_SCHEDULES = """
from jobworker import daily, schedule

for name in {names}:
    schedule(name.replace("/", "-"), job="nightly", rule=daily("06:00"), zone=name)
"""


@pytest.fixture
def host(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder on a host whose own time zone data are wrong."""
    monkeypatch.setenv("PYTHONTZPATH", str(zone_data.create_tzpath(tmp_path / "zones", _WRONG_ZONES)))
    monkeypatch.setenv("JOBWORKER_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("JOBWORKER_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))
    (tmp_path / "schedules").mkdir()
    (tmp_path / "schedules" / "__init__.py").write_text(_SCHEDULES.format(names=list(EXPECTED_UTC_TIMES)))
    return tmp_path


def _run(folder: Path, *arguments: str) -> tuple[str, str]:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_rules_previews_and_fixture_use_the_packaged_zone_data(host: Path) -> None:
    output, logged = _run(host, "-c", _PRINT_ZONE_DATA, json.dumps(list(EXPECTED_UTC_TIMES)))
    assert DATA_VERSION in logged
    assert output.splitlines() == [f"{name} {at} {at} {at}" for name, at in EXPECTED_UTC_TIMES.items()]


def test_simulations_use_the_packaged_zone_data(host: Path) -> None:
    output, _ = _run(
        host,
        "-m",
        "jobworker.cli",
        "simulate",
        "--code",
        "--json",
        "--from",
        "2026-12-01T00:00Z",
        "--to",
        "2026-12-02T00:00Z",
    )
    due_times = {
        occurrence["schedule"]: occurrence["scheduled_for"] for occurrence in map(json.loads, output.splitlines())
    }
    moments = {name: dt.datetime.fromisoformat(due_times[name.replace("/", "-")]) for name in EXPECTED_UTC_TIMES}
    assert {name: f"{at.astimezone(dt.UTC):%H:%M}" for name, at in moments.items()} == EXPECTED_UTC_TIMES


def test_processes_report_and_use_the_packaged_zone_data(engine: Engine, tmp_path: Path) -> None:
    wrong = {"PYTHONTZPATH": str(zone_data.create_tzpath(tmp_path / "zones", _WRONG_ZONES))}
    outdated_package = zone_data.create_tzdata_package(tmp_path / "other", "2020a", {})
    earlier = zone_data.create_tzdata_package(
        tmp_path / "earlier", "2025b", {"America/Vancouver": "America/Los_Angeles"}
    )
    with zone_data.use_tzdata(earlier, "2025b"):
        time_zone_updates.apply_zone_data(engine.database, engine.clock, lambda _: None)
        office = _put_schedule(engine.database, "America/Vancouver", dt.datetime(2036, 12, 1, tzinfo=dt.UTC), "office")
    relay, beat = engine.start_relay(**wrong), engine.start_beat(**wrong)
    worker = engine.start_worker(**wrong, PYTHONPATH=str(outdated_package))
    engine.wait_until_ready()
    due = engine.clock.now() - dt.timedelta(days=1)
    rows = [_put_schedule(engine.database, name, due) for name in EXPECTED_UTC_TIMES]

    def followed() -> bool:
        return all(_get_schedule(engine.database, row).settled_until >= row.next_at for row in rows if row.next_at)

    wait_until(followed, within=60.0, what=f"five schedules to fire; logs in {tmp_path}")
    for row in rows:
        assert row.next_at is not None
        expected = find_next_time(row.schedule.build_timetable({}), row.next_at)
        assert _get_schedule(engine.database, row).next_at == expected, row.name
    assert office.next_at == dt.datetime(2036, 12, 1, 14, tzinfo=dt.UTC)
    assert _get_schedule(engine.database, office).next_at == dt.datetime(2036, 12, 1, 13, tzinfo=dt.UTC)
    moved = r"schedule_moved.*office .*next at 2036-12-01T13:00.* instead of 2036-12-01T14:00"
    assert re.search(moved, engine.read_log(relay)), relay.log
    for process, version in ((relay, DATA_VERSION), (beat, DATA_VERSION), (worker, "2020a (tzdata 1)")):
        assert re.search(rf"process_starts.*{re.escape(version)}", engine.read_log(process)), process.log
    wait_until(lambda: "time_zone_data_differ" in engine.read_log(relay), within=60.0, what=f"a warning in {relay.log}")
    assert f"2020a (tzdata 1): workers on {socket.gethostname()}" in engine.read_log(relay)


def _put_schedule(database: Database, zone: str, since: dt.datetime, name: str | None = None) -> ScheduleRow:
    """Insert a schedule that was created a while ago and is due."""
    schedule = parse({"name": name or zone.replace("/", "-"), "job": "noop", "rule": daily("06:00"), "zone": zone})
    with database.write() as connection:
        return schedule_rows.upsert(
            connection, schedule, ScheduleOwner.API, "me", since, find_next_time(schedule.build_timetable({}), since)
        )


def _get_schedule(database: Database, row: ScheduleRow) -> ScheduleRow:
    with database.read() as connection:
        current_row = schedule_rows.get_by_id(connection, row.id)
    assert current_row is not None
    return current_row
