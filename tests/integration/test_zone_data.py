"""Whatever time zone data the host has: processes take those of the package `tzdata`, and say which they are."""

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import zone_data
from tests.zone_data import NEW_LAWS

_ONE_HOST = dict.fromkeys(NEW_LAWS, "Asia/Tokyo")

_EVERYWHERE = """
import datetime as dt, json, sys, zoneinfo
names = json.loads(sys.argv[1])
early = [zoneinfo.ZoneInfo(name) for name in names]  # Loaded by others before JobWorker is imported.
from jobworker import daily
from jobworker.domain.schedule import parse
from jobworker.domain.timetable import next_after
from jobworker.settings import Settings
from jobworker.web import create_app

def by_domain(name):
    made = parse({"name": "a", "job": "a", "rule": daily("06:00"), "zone": name})
    return next_after(made.timetable({}), dt.datetime(2026, 12, 1, tzinfo=dt.UTC))

def by_http(name):
    asked = {"rule": {"kind": "daily", "time": "06:00"}, "zone": name, "from": "2026-12-01T00:00:00Z", "count": 1}
    answer = client.post("/api/v1/schedules/preview", json=asked).json
    return dt.datetime.fromisoformat(answer["occurrences"][0]["scheduled_for"])

client = create_app(Settings.from_environment()).test_client()
for name in names:
    print(name, f"{by_domain(name):%H:%M}", f"{by_http(name):%H:%M}")
"""

_SCHEDULES = """
from jobworker import daily, schedule

for name in {names}:
    schedule(name.replace("/", "-"), job="nightly", rule=daily("06:00"), zone=name)
"""


@pytest.fixture
def host(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a host whose own time zone data are wrong."""
    monkeypatch.setenv("PYTHONTZPATH", str(zone_data.folder(tmp_path / "zones", _ONE_HOST)))
    monkeypatch.setenv("JOBWORKER_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("JOBWORKER_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))
    return tmp_path


def _run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rules_and_previews_take_the_data_of_the_package(host: Path) -> None:
    told = _run(host, "-c", _EVERYWHERE, json.dumps(list(NEW_LAWS)))
    assert told.splitlines() == [f"{name} {at} {at}" for name, at in NEW_LAWS.items()]


def test_simulations_take_the_data_of_the_package(host: Path) -> None:
    (host / "schedules").mkdir()
    (host / "schedules" / "__init__.py").write_text(_SCHEDULES.format(names=list(NEW_LAWS)))
    told = _run(
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
    found = {each["schedule"]: each["scheduled_for"] for each in map(json.loads, told.splitlines())}
    moments = {name: dt.datetime.fromisoformat(found[name.replace("/", "-")]) for name in NEW_LAWS}
    assert {name: f"{at.astimezone(dt.UTC):%H:%M}" for name, at in moments.items()} == NEW_LAWS
