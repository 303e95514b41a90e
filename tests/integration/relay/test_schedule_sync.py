"""Synchronization of declared schedules by the relay that leads."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from jobworker.domain.schedules.schedule import ScheduleState
from jobworker.relay.problems import RelayProblems
from jobworker.relay.schedule_sync import ScheduleSynchronizer
from jobworker.settings import Settings
from jobworker.store.database.database import Database
from jobworker.store.schedules import schedule_rows
from tests.conformance.execution_driver import ExecutionDriver

SyncStarter = Callable[[], ScheduleSynchronizer]
LogEntries = list[structlog.typing.EventDict]

_NIGHTLY = "schedule('nightly', job='load', rule=daily('02:00'))"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder of the relay, without schedules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def start(folder: Path, sqlite_database: Database) -> SyncStarter:
    """Function that returns a new synchronizer of a relay."""
    driver = ExecutionDriver(sqlite_database)
    settings = Settings.from_environment({"JOBWORKER_SCHEDULES": "nights"})
    return lambda: ScheduleSynchronizer(sqlite_database, driver.clock, settings, RelayProblems(driver.clock))


@pytest.fixture
def log() -> Iterator[LogEntries]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def write_module(folder: Path, code: str, module: str = "__init__") -> None:
    (folder / "nights").mkdir(exist_ok=True)
    (folder / "nights" / f"{module}.py").write_text(f"from jobworker import daily, schedule\n{code}\n")


def list_states(database: Database) -> dict[str, ScheduleState]:
    with database.read() as connection:
        return {row.name: row.state for row in schedule_rows.list_all(connection)}


def test_synchronization_runs_once(
    start: SyncStarter, folder: Path, sqlite_database: Database, log: LogEntries
) -> None:
    write_module(folder, _NIGHTLY)
    synchronizer = start()
    synchronizer.synchronize()
    assert list_states(sqlite_database) == {"nightly": ScheduleState.ACTIVE}
    [entry] = log
    assert (entry["event"], entry["what"], entry["schedule"], entry["place"]) == (
        "declaration_applied",
        "created",
        "nightly",
        "nights/__init__.py:2",
    )
    write_module(folder, "")
    synchronizer.synchronize()
    assert list_states(sqlite_database) == {"nightly": ScheduleState.ACTIVE}, "the code of a process does not change"
    start().synchronize()
    assert list_states(sqlite_database) == {"nightly": ScheduleState.RETIRED}


def test_rejected_declaration_is_logged_once_and_applied_later(
    start: SyncStarter, folder: Path, sqlite_database: Database, log: LogEntries
) -> None:
    write_module(folder, "schedule('early', job='later', rule=daily('02:00'))")
    synchronizer = start()
    for _ in range(3):
        synchronizer.synchronize()
    [entry] = log
    assert (entry["event"], entry["log_level"]) == ("declaration_not_taken_yet", "warning")
    assert "there is no job 'later'" in entry["why"]
    ExecutionDriver(sqlite_database).define_job("later")
    synchronizer.synchronize()
    assert list_states(sqlite_database) == {"early": ScheduleState.ACTIVE}


def test_missing_package_retires_no_schedule(
    start: SyncStarter, folder: Path, sqlite_database: Database, log: LogEntries
) -> None:
    start().synchronize()
    assert log == [], "nobody misses it"
    write_module(folder, _NIGHTLY)
    start().synchronize()
    (folder / "nights" / "__init__.py").unlink()
    (folder / "nights").rename(folder / "elsewhere")
    start().synchronize()
    assert list_states(sqlite_database) == {"nightly": ScheduleState.ACTIVE}
    assert (log[-1]["event"], log[-1]["schedules"]) == ("schedules_left_as_they_are", ["nightly"])
    assert "JOBWORKER_SCHEDULES" in log[-1]["why"]


def test_broken_module_changes_nothing(
    start: SyncStarter, folder: Path, sqlite_database: Database, log: LogEntries
) -> None:
    write_module(folder, _NIGHTLY)
    start().synchronize()
    write_module(folder, "schedule('other', job='load', rule=daily('03:00'))")
    write_module(folder, "schedule('third', job='load', rule=daily('3 am'))", "third")
    synchronizer = start()
    for _ in range(2):
        synchronizer.synchronize()
    assert list_states(sqlite_database) == {"nightly": ScheduleState.ACTIVE}
    errors = [line for line in log if line["log_level"] == "error"]
    assert [line["event"] for line in errors] == ["schedule_module_broken", "schedules_left_as_they_are"]
    assert "nights/third.py:2: schedule 'third': /rule/time: " in errors[0]["exception"]


def test_declaration_warning_is_logged(
    start: SyncStarter, folder: Path, sqlite_database: Database, log: LogEntries
) -> None:
    write_module(folder, "schedule('over', job='load', rule=daily('02:00'), end='2020-01-01T00:00:00Z')")
    start().synchronize()
    taken, odd = log
    assert (taken["event"], odd["event"], odd["log_level"]) == ("declaration_applied", "declaration_warning", "warning")
    assert (odd["schedule"], odd["why"][:14]) == ("over", "it never fires")
