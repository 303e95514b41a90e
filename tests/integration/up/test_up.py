"""`jobworker up` with small Procfiles."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from jobworker.up.redis_server import EmbeddedRedis
from tests.integration.up.conftest import SIGNAL_RECORDER_COMMAND, SLEEP_COMMAND, UpStarter
from tests.polling import wait_until
from tests.up_process import is_alive, list_group_members, make_environment


def test_ctrl_c_stops_services_in_order_and_leaves_no_process(start: UpStarter, tmp_path: Path) -> None:
    names = ["flower", "relay", "worker", "web", "beat"]
    up = start(*(f"{name}: {SIGNAL_RECORDER_COMMAND} {name}" for name in names))
    up.wait_for_output("| ready", times=len(names))
    pids = up.list_service_pids()

    assert up.stop() == 0

    stopped = (tmp_path / "stopped").read_text().split()
    assert sorted(stopped[:3]) == ["beat", "flower", "web"]
    assert stopped[3:] == ["worker", "relay"]
    assert up.output.index("relay ended") < up.output.index("stopping redis")
    assert not list_group_members(*pids.values())


def test_second_ctrl_c_interrupts_jobs(start: UpStarter) -> None:
    code = (
        "import signal; signal.signal(15, signal.SIG_IGN); signal.signal(3, lambda *_: exit(print('told')));"
        "print('ready'); [signal.pause() for _ in range(9)]"
    )
    up = start(f'worker: {sys.executable} -u -c "{code}"', f"web: {SLEEP_COMMAND}")
    up.wait_for_output("| ready")
    pids = up.list_service_pids()
    up.send_signal(signal.SIGINT)
    up.wait_for_output("jobs that run have 60 s to end. Ctrl-C again interrupts them, a third one kills all")
    up.wait_for_output("stopping worker")
    up.send_signal(signal.SIGINT)
    up.wait_for_output("interrupting the jobs; Ctrl-C again kills all")
    up.wait_for_output("| told")
    assert up.wait_for_exit() == 0
    assert not list_group_members(*pids.values())


def test_third_ctrl_c_kills_services(start: UpStarter) -> None:
    ignores = "import signal; [signal.signal(n, signal.SIG_IGN) for n in (15, 3)]"
    code = f"{ignores}; print('ready'); [signal.pause() for _ in range(9)]"
    up = start(f'worker: {sys.executable} -u -c "{code}"')
    up.wait_for_output("| ready")
    pids = up.list_service_pids()

    up.send_signal(signal.SIGINT)
    up.wait_for_output("stopping worker")
    up.send_signal(signal.SIGINT)
    up.wait_for_output("interrupting")
    up.send_signal(signal.SIGINT)

    assert up.wait_for_exit() == 1
    assert "killing worker" in up.output
    assert not list_group_members(*pids.values())


def test_sigkill_leaves_no_process(start: UpStarter) -> None:
    family = "import subprocess,signal; subprocess.Popen(['sleep', '600']); print('ready'); signal.pause()"
    up = start(f'worker: {sys.executable} -u -c "{family}"', f"web: {SLEEP_COMMAND}")
    up.wait_for_output("| ready")
    up.wait_for_output("web started")
    pids = up.list_service_pids()
    groups = [pids[name] for name in ("redis", "worker", "web")]
    assert len(list_group_members(*groups)) == 4

    up.kill()

    wait_until(lambda: not list_group_members(*groups), what="the end of everything")


def test_up_can_be_restarted_at_once_after_sigkill(start: UpStarter) -> None:
    up = start(f"worker: {SLEEP_COMMAND}")
    up.wait_for_output("worker started")
    up.kill()

    again = start(f"worker: {SLEEP_COMMAND}")
    again.wait_for_output("worker started")
    assert again.stop() == 0


def test_service_environment_contains_urls_and_settings(start: UpStarter, tmp_path: Path) -> None:
    up = start(f"worker: {sys.executable} -c \"import os; print('env', *sorted(os.environ.items()))\"")
    up.wait_for_output("| env ")
    line = next(line for line in up.output.splitlines() if "| env" in line)

    assert f"'JOBWORKER_REDIS_URL', '{EmbeddedRedis(up.home).url}'" in line
    assert f"'JOBWORKER_DATABASE_URL', 'sqlite:///{up.home}/jobworker.db'" in line
    assert (up.home / "flower.password").read_text().strip() in line
    assert (up.home / "flower.password").stat().st_mode & 0o777 == 0o600
    password = (up.home / "redis" / "password").read_text().strip()
    assert password not in Path(f"/proc/{up.list_service_pids()['redis']}/cmdline").read_text()


@pytest.mark.parametrize("output", ["pipe", "/dev/full"])
def test_up_continues_when_its_output_cannot_be_written(tmp_path: Path, output: str) -> None:
    talks = f'{sys.executable} -u -c "import time; [print(n) or time.sleep(0.01) for n in range(9**9)]"'
    later = "trap 'echo later >stopped; exit' TERM; read x <go; echo >gone; while :; do sleep 0.1; done"
    (tmp_path / "later.sh").write_text(later)
    (tmp_path / "Procfile").write_text(f"talker: {talks}\nlater: sh later.sh\n")
    os.mkfifo(tmp_path / "go")
    with open(output, "wb") if output != "pipe" else contextlib.nullcontext(subprocess.PIPE) as stdout:
        up = subprocess.Popen(
            [sys.executable, "-m", "jobworker.cli", "up"],
            cwd=tmp_path,
            env=make_environment(tmp_path, {}),
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
    if up.stdout is not None:
        next(line for line in up.stdout if b"later started" in line)
        up.stdout.close()
    (tmp_path / "go").write_text("go\n")
    wait_until((tmp_path / "gone").exists, within=60, what="a process that goes on")
    assert up.poll() is None

    up.send_signal(signal.SIGINT)

    assert up.wait(60) == 0
    assert up.stderr is not None
    assert up.stderr.read() == b""
    assert (tmp_path / "stopped").read_text() == "later\n"


def test_up_runs_under_nohup_and_as_a_background_job(start: UpStarter) -> None:
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)]
    up = start(f"worker: {SLEEP_COMMAND}")
    for number, handler in zip((signal.SIGHUP, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)
    up.wait_for_output("worker started")

    up.send_signal(signal.SIGHUP)
    os.kill(up.list_service_pids()["worker"], signal.SIGKILL)
    up.wait_for_output("worker started again")
    assert up.stop() == 0


@pytest.mark.parametrize(("name", "variable"), [("web", "JOBWORKER_BIND"), ("flower", "JOBWORKER_FLOWER_BIND")])
def test_port_in_use_is_reported_before_any_service_starts(start: UpStarter, name: str, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        up = start(f"{name}: {SLEEP_COMMAND}", **{variable: f"127.0.0.1:{port}"})

        assert up.wait_for_exit() == 2
    assert f"error: port {port} on 127.0.0.1 is in use" in up.output
    assert f"set {variable}" in up.output
    assert "started" not in up.output
    assert "Traceback" not in up.output


def test_second_up_in_one_home_is_rejected(start: UpStarter) -> None:
    first = start(f"worker: {SLEEP_COMMAND}")
    first.wait_for_output("worker started")

    second = start(f"worker: {SLEEP_COMMAND}")

    assert second.wait_for_exit() == 2
    assert f"runs already in {first.home} (process {first.process.pid})" in second.output
    assert is_alive(first.list_service_pids()["worker"])


def test_database_newer_than_the_code_is_rejected(start: UpStarter, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    with sqlite3.connect(tmp_path / "var" / "jobworker.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    up = start(f"worker: {SLEEP_COMMAND}")

    assert up.wait_for_exit() == 2
    assert "made by a newer JobWorker" in up.output
    assert "worker started" not in up.output
    assert "Traceback" not in up.output
    wait_until(lambda: not list_group_members(*up.list_service_pids().values()), what="Redis to end")


def test_beat_is_not_started_with_the_internal_scheduling_provider(start: UpStarter) -> None:
    up = start(
        f"beat: {SIGNAL_RECORDER_COMMAND} beat",
        f"web: {SIGNAL_RECORDER_COMMAND} web",
        JOBWORKER_SCHEDULING_PROVIDER="internal",
    )
    up.wait_for_output("| ready")
    assert set(up.list_service_pids()) == {"redis", "db", "web"}
