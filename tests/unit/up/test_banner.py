"""The banner that is printed once the system is ready."""

import threading
from pathlib import Path

import pytest

from jobworker.clock import SystemClock
from jobworker.up import http
from jobworker.up.banner import Endpoints, StartupBanner
from jobworker.up.output import ProcessOutput


@pytest.mark.parametrize(
    ("status", "example"),
    [(200, "http://a/api/v1/jobs/generate_entity_statistics/executions"), (404, "curl -s http://a/api/v1/jobs\n")],
)
def test_banner_example_uses_existing_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, example: str
) -> None:
    monkeypatch.setattr(
        http, "send_request", lambda url: http.ApiResponse(200 if url == "http://a/readyz" else status, None)
    )
    clock = SystemClock()
    output = ProcessOutput(clock, ["web"], tmp_path)
    endpoints = Endpoints("http://a", None, "", "sqlite:////x.db")
    banner = StartupBanner(endpoints, "redis://127.0.0.1", output, clock, threading.Event())
    banner.run(with_demo=False)
    assert example in capsys.readouterr().out
