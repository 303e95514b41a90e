"""`jobworker doctor`."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobworker.clock import SystemClock
from jobworker.up.lock import HomeLock
from jobworker.up.redis_server import EmbeddedRedis
from tests.integration.cli.conftest import CommandRunner
from tests.servers import RedisServer


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Function that creates a package with one module of jobs."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(package: str, code: str) -> str:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "exports.py").write_text(code)
        return package

    return make


def _parse_levels(output: str) -> dict[str, str]:
    """Return the level of each subject."""
    levels = {}
    for line in output.splitlines():
        level, _, finding = line.partition(" ")
        if level in ("ok", "warn", "FAIL"):
            levels[finding.strip().partition(":")[0]] = level
    return levels


def test_doctor_prints_the_level_of_every_check(
    run: CommandRunner, redis_url: str, tasks: Callable[[str, str], str]
) -> None:
    done = run("doctor", JOBWORKER_REDIS_URL=redis_url, JOBWORKER_TASKS=tasks("fine_tasks", ""))

    levels = _parse_levels(done.stdout)
    for subject in ("python", "settings", "database", "migrations", "redis", "redis server", "tasks"):
        assert levels[subject] == "ok", done.stdout
    # No process runs in this test.
    assert levels["relay"] == levels["workers"] == "FAIL"
    assert levels["beat"] == levels["redis data"] == "warn"
    assert done.exit_code == 1


def test_doctor_names_a_module_that_fails_to_import_with_its_traceback(
    run: CommandRunner, redis_url: str, tasks: Callable[[str, str], str]
) -> None:
    package = tasks("broken_tasks", "import sys\n\nsys.exit('no key')\n")
    timetable = tasks("broken_schedules", "import nowhere_to_be_found\n")
    done = run("doctor", JOBWORKER_REDIS_URL=redis_url, JOBWORKER_TASKS=package, JOBWORKER_SCHEDULES=timetable)

    file = Path(package, "exports.py")
    assert re.search(rf"tasks: broken_tasks.exports does not import \(\S*{file}:3: SystemExit: no key\)", done.stdout)
    file = Path(timetable, "exports.py")
    pattern = rf"schedules: broken_schedules.exports does not import \(\S*{file}:1: ModuleNotFoundError: No module"
    assert re.search(pattern, done.stdout)
    assert "import nowhere_to_be_found" in done.stdout


def test_doctor_fails_for_a_redis_that_evicts(run: CommandRunner, own_redis: Callable[[], RedisServer]) -> None:
    server = own_redis()
    with server.create_client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")

    done = run("doctor", JOBWORKER_REDIS_URL=server.url)

    assert _parse_levels(done.stdout)["redis server"] == "FAIL"
    assert "set maxmemory-policy noeviction" in done.stdout


def test_doctor_accepts_a_redis_that_keeps_its_data(run: CommandRunner, own_redis: Callable[..., RedisServer]) -> None:
    done = run("doctor", JOBWORKER_REDIS_URL=own_redis(persistent=True).url)

    assert _parse_levels(done.stdout)["redis data"] == "ok"


def test_doctor_runs_all_checks_when_a_service_is_down(run: CommandRunner, tmp_path: Path) -> None:
    done = run("doctor", JOBWORKER_DATABASE_URL=f"sqlite:///{tmp_path}/empty.db", JOBWORKER_TASKS="no_such_package")

    levels = _parse_levels(done.stdout)
    assert levels["migrations"] == levels["redis"] == levels["tasks"] == "FAIL"
    assert "run jobworker db upgrade" in done.stdout
    assert "JOBWORKER_TASKS" in done.stdout
    assert done.exit_code == 1


@pytest.mark.parametrize("value", ["tcp://x", "redis://127.0.0.1:port/0"])
def test_doctor_reports_an_invalid_redis_url(run: CommandRunner, value: str) -> None:
    done = run("doctor", JOBWORKER_REDIS_URL=value)

    assert f"JOBWORKER_REDIS_URL={value} is not a Redis URL" in done.stdout
    assert "tasks" in _parse_levels(done.stdout)


def test_doctor_reports_invalid_settings(run: CommandRunner) -> None:
    done = run("doctor", JOBWORKER_FEED="many")

    assert done.exit_code == 1
    assert _parse_levels(done.stdout) == {"settings": "FAIL"}


def test_doctor_checks_the_redis_of_a_running_up(run: CommandRunner, tmp_path: Path) -> None:
    home = tmp_path / "var"
    EmbeddedRedis(home).prepare()
    lock = HomeLock(home)
    url = EmbeddedRedis(home).url
    assert url is not None
    port = url.rpartition(":")[2].partition("/")[0]

    assert f":{port}." not in run("doctor", JOBWORKER_REDIS_URL="").stdout
    lock.acquire(SystemClock())
    try:
        assert f":{port}." in run("doctor", JOBWORKER_REDIS_URL="").stdout
    finally:
        lock.release()
