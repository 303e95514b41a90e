"""What is started beside `jobworker up` finds its Redis."""

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
    """A home that has been used, and the environment of a shell."""
    monkeypatch.setenv("JOBWORKER_HOME", str(tmp_path / "var"))
    monkeypatch.setenv("JOBWORKER_REDIS_URL", "")  # So that it is put back.
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


def test_the_embedded_redis_is_found_and_told_to_what_is_started(up: str) -> None:
    assert read_settings().redis_url == up
    assert os.environ["JOBWORKER_REDIS_URL"] == up


def test_any_server_of_the_api_finds_it(up: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tolerate_output_errors", "configure", "log_process_start"):  # They are for a whole process.
        monkeypatch.setattr(logging, name, lambda *_: None)
    assert create_app().extensions["jobworker"].settings.redis_url == up


@pytest.mark.usefixtures("up")
def test_a_redis_that_is_named_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBWORKER_REDIS_URL", "redis://elsewhere/0")
    assert read_settings().redis_url == "redis://elsewhere/0"


def test_where_nothing_runs_nothing_is_started_or_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings().redis_url == DEFAULT_REDIS_URL
    monkeypatch.setenv("JOBWORKER_HOME", str(tmp_path / "new"))
    assert read_settings().redis_url == DEFAULT_REDIS_URL
    assert not (tmp_path / "new").exists()
