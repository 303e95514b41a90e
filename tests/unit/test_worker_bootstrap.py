"""Checks of a worker before it consumes messages."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from jobworker.settings import Settings
from jobworker.worker import bootstrap


@pytest.mark.parametrize("usable", [True, False])
def test_unusable_home_logged_once(tmp_path: Path, usable: bool) -> None:
    home = tmp_path / "home"
    if not usable:
        home.touch()
    settings = Settings.from_environment({"JOBWORKER_HOME": str(home)})

    with capture_logs() as said:
        bootstrap._warn_if_home_unusable(settings)

    assert [entry["event"] for entry in said] == ([] if usable else ["home_unusable"])
    assert all(str(home) in entry["why"] for entry in said)
