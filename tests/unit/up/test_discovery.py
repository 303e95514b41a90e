"""Discovery of the Redis of a running `jobworker up` by processes started beside it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobworker.clock import SystemClock
from jobworker.settings import DEFAULT_REDIS_URL
from jobworker.telemetry import logging
from jobworker.up.discovery import read_settings
from jobworker.up.lock import HomeLock
from jobworker.up.redis_server import EmbeddedRedis
from jobworker.web import create_app


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that was used before, and the environment of a shell."""
    monkeypatch.setenv("JOBWORKER_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("JOBWORKER_REDIS_URL", "")  # So that monkeypatch restores the variable.
    monkeypatch.delenv("JOBWORKER_REDIS_URL")
    EmbeddedRedis(tmp_path / "var").prepare()
    return tmp_path / "var"


@pytest.fixture
def up(home: Path) -> Iterator[str]:
    """The URL of the Redis that a running `jobworker up` has."""
    lock = HomeLock(home)
    lock.acquire(SystemClock())
    yield str(EmbeddedRedis(home).url)
    lock.release()


def test_embedded_redis_found_and_passed_to_child_processes(up: str) -> None:
    assert read_settings().redis_url == up
    assert os.environ["JOBWORKER_REDIS_URL"] == up


def test_embedded_redis_found_by_api_server(up: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # These functions change the whole process.
    for name in ("tolerate_output_errors", "configure", "log_process_start"):
        monkeypatch.setattr(logging, name, lambda *_: None)
    assert create_app().extensions["jobworker"].settings.redis_url == up


@pytest.mark.usefixtures("up")
def test_configured_redis_overrides_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBWORKER_REDIS_URL", "redis://elsewhere/0")
    assert read_settings().redis_url == "redis://elsewhere/0"


def test_discovery_without_running_system_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().redis_url == DEFAULT_REDIS_URL
    monkeypatch.setenv("JOBWORKER_HOME", str(tmp_path / "new"))
    assert read_settings().redis_url == DEFAULT_REDIS_URL
    assert not (tmp_path / "new").exists()
