"""Real `celery beat` processes: killed, stopped, and disconnected from Redis."""

import collections
import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from jobworker.transport import keys
from jobworker.transport.beat import entry_format
from tests.integration.test_beat import BeatSchedule
from tests.polling import wait_until
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
EVERY_SECOND = {"kind": "interval", "every": 1}
SECOND = dt.timedelta(seconds=1)

#: Number of schedules: enough that a tick takes time and a leader can be stopped within it.
SCHEDULE_COUNT = 20


class BeatProcesses:
    """Beat processes of one test."""

    def __init__(self, url: str, folder: Path) -> None:
        self._environment = {**os.environ, "JOBWORKER_REDIS_URL": url, "JOBWORKER_HOME": str(folder)}
        self._environment.pop("PYTHONPATH", None)
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start_beat(self, app: str = "tests.integration.beat_app", *options: str) -> int:
        # The console script, as users start it: it does not add the current folder to the import path.
        celery = Path(sys.executable).parent / "celery"
        command = [str(celery), "-A", app, "beat", "-l", "INFO", *options]
        log = self._folder / f"beat-{len(self._processes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )
        self._processes[process.pid] = process
        return process.pid

    def send_signal(self, pid: int, number: signal.Signals) -> None:
        self._processes[pid].send_signal(number)

    def is_alive(self, pid: int) -> bool:
        return self._processes[pid].poll() is None

    def wait_for_exit(self, pid: int) -> int:
        return self._processes[pid].wait(20)

    def stop_all(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def read_logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self._folder.glob("beat-*.log")))


@pytest.fixture
def server(own_redis: Callable[..., RedisServer]) -> RedisServer:
    return own_redis(persistent=True)


@pytest.fixture
def schedule(server: RedisServer) -> Iterator[BeatSchedule]:
    with server.create_client() as client:
        schedule = BeatSchedule(client)
        for number in range(SCHEDULE_COUNT):
            schedule.add_entry(f"s{number}", EVERY_SECOND, schedule.now.replace(microsecond=0) + SECOND)
        yield schedule


@pytest.fixture
def beats(server: RedisServer, tmp_path: Path) -> Iterator[BeatProcesses]:
    beats = BeatProcesses(server.url, tmp_path)
    try:
        yield beats
    finally:
        beats.stop_all()
        # pytest shows this output if the test failed.
        sys.stderr.write(beats.read_logs())


def get_leader_pid(schedule: BeatSchedule) -> int:
    """Return the process id of the leading beat, or 0 if none leads."""
    try:
        name = schedule.client.hget(keys.BEAT, "leader")
    except redis.RedisError:
        return 0
    return int(str(name).rpartition(":")[2]) if name else 0


def wait_for_occurrences(schedule: BeatSchedule, by: int = 3 * SCHEDULE_COUNT) -> None:
    """Wait until this many further occurrences were reported."""
    expected_length = schedule.client.xlen(keys.EVENTS) + by
    wait_until(lambda: schedule.client.xlen(keys.EVENTS) >= expected_length, what="more due events")


def check_no_duplicates(schedule: BeatSchedule) -> None:
    counted = collections.Counter(schedule.list_reported())
    assert [event for event, times in counted.items() if times > 1] == []
    assert all(at.microsecond == 0 for _, at in counted)


def test_second_beat_takes_over_from_a_killed_leader(beats: BeatProcesses, schedule: BeatSchedule) -> None:
    pids = {beats.start_beat(), beats.start_beat()}
    first = wait_until(lambda: get_leader_pid(schedule), what="a leader")
    wait_for_occurrences(schedule)
    beats.send_signal(first, signal.SIGKILL)
    (second,) = pids - {first}
    wait_until(lambda: get_leader_pid(schedule) == second, what="the other beat to lead")
    wait_for_occurrences(schedule)
    check_no_duplicates(schedule)
    assert beats.is_alive(second)


def test_frozen_leader_that_resumes_reports_nothing_twice(beats: BeatProcesses, schedule: BeatSchedule) -> None:
    pids = {beats.start_beat(), beats.start_beat()}
    first = wait_until(lambda: get_leader_pid(schedule), what="a leader")
    (second,) = pids - {first}
    wait_for_occurrences(schedule)
    beats.send_signal(first, signal.SIGSTOP)
    wait_until(lambda: get_leader_pid(schedule) == second, what="the other beat to lead")
    beats.send_signal(first, signal.SIGCONT)
    wait_for_occurrences(schedule)
    check_no_duplicates(schedule)
    assert beats.is_alive(first)
    # The beat leads again after the other one ended, so it was on standby.
    beats.send_signal(second, signal.SIGTERM)
    assert beats.wait_for_exit(second) == 0
    wait_until(lambda: get_leader_pid(schedule) == first, what="the first beat to lead again")


def test_beat_survives_a_redis_restart(beats: BeatProcesses, schedule: BeatSchedule, server: RedisServer) -> None:
    pid = beats.start_beat()
    wait_for_occurrences(schedule)
    server.stop()
    wait_until(lambda: "redis_does_not_answer" in beats.read_logs(), what="beat to notice")
    server.start()
    wait_for_occurrences(schedule)
    check_no_duplicates(schedule)
    schedule.client.delete(f"{entry_format.KEY_PREFIX}:lock")
    wait_for_occurrences(schedule)
    assert beats.is_alive(pid)


def test_terminated_beat_releases_the_lock(beats: BeatProcesses, schedule: BeatSchedule) -> None:
    pid = beats.start_beat()
    wait_for_occurrences(schedule, 1)
    beats.send_signal(pid, signal.SIGTERM)
    assert beats.wait_for_exit(pid) == 0
    assert not schedule.client.exists(f"{entry_format.KEY_PREFIX}:lock")


def test_default_app_runs_beat(beats: BeatProcesses, schedule: BeatSchedule) -> None:
    pid = beats.start_beat("jobworker")
    wait_for_occurrences(schedule)
    check_no_duplicates(schedule)
    beats.send_signal(pid, signal.SIGINT)
    assert beats.wait_for_exit(pid) == 0


def test_interval_too_long_for_the_lock_is_reported_in_one_line(beats: BeatProcesses) -> None:
    assert beats.wait_for_exit(beats.start_beat("jobworker", "--max-interval", "60")) == 1
    assert "error: redbeat_lock_timeout is 15 s; with beat_max_loop_interval (--max-interval) 60 s" in beats.read_logs()
    assert "Traceback" not in beats.read_logs()


def test_beat_imports_neither_sql_nor_http_modules() -> None:
    check = (
        "import sys, jobworker.celery, jobworker.transport.beat, jobworker.transport.beat.projection;"
        "print([m for m in ('sqlalchemy', 'flask', 'marshmallow', 'werkzeug') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
