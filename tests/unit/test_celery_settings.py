"""Settings from the operator's celeryconfig.py, merged with JobWorker's defaults for every Celery process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery

from jobworker.domain.errors import ConfigurationError
from jobworker.settings import Settings
from jobworker.transport.celery_settings import build_celery_settings, merge_settings
from tests.up_process import ROOT

DEFAULT_SETTINGS = build_celery_settings(Settings.from_environment({}))


def test_operator_settings_override_defaults() -> None:
    laid = merge_settings(
        DEFAULT_SETTINGS, {"beat_max_loop_interval": 2, "redbeat_lock_timeout": 40, "worker_concurrency": 3}
    )
    assert (laid["beat_max_loop_interval"], laid["redbeat_lock_timeout"]) == (2, 40)
    assert laid["task_acks_late"] is True
    assert "worker_concurrency" not in laid


def test_redis_password_hidden_from_remote_control() -> None:
    app = Celery(set_as_current=False)
    app.add_defaults(
        build_celery_settings(Settings.from_environment({"JOBWORKER_REDIS_URL": "redis://:hush@host:1/0"}))
    )
    assert "hush" not in str(app.conf.table(with_defaults=True, censored=True))


def test_transport_options_merged_by_key() -> None:
    laid = merge_settings(DEFAULT_SETTINGS, {"broker_transport_options": {"socket_timeout": 9}})
    assert laid["broker_transport_options"] == {**DEFAULT_SETTINGS["broker_transport_options"], "socket_timeout": 9}


@pytest.mark.parametrize("name", ["broker_url", "redbeat_redis_url", "timezone", "beat_scheduler", "accept_content"])
def test_reserved_setting_rejected_with_its_replacement(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"celeryconfig.py: {name} cannot be set there; "):
        merge_settings(DEFAULT_SETTINGS, {name: "x"})


def _read_setting(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "celeryconfig.py").write_text(text)
    code = "from jobworker.celery import app; print(app.conf.redbeat_lock_timeout, app.conf.worker_concurrency)"
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_celeryconfig_applied_to_application(tmp_path: Path) -> None:
    assert _read_setting(tmp_path, "redbeat_lock_timeout = 40\nworker_concurrency = 3\n").stdout == "40 3\n"


def test_reserved_setting_ends_process_with_one_line_error(tmp_path: Path) -> None:
    answer = _read_setting(tmp_path, "broker_url = 'redis://elsewhere'\n")
    assert answer.returncode == 1
    assert answer.stderr == "error: celeryconfig.py: broker_url cannot be set there; set JOBWORKER_REDIS_URL\n"
