"""`jobworker up --demo`: submits the three example jobs over HTTP and shows their progress."""

import json
import sys
import threading
from typing import Any, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jobworker.clock import Clock
from jobworker.telemetry import plain_text
from jobworker.up import http

#: Example jobs, and the parameters with which they are submitted.
EXAMPLE_JOBS: dict[str, dict[str, Any]] = {
    "cleanup_inactive_entities": {"inactive_days": 90, "batch_size": 100, "dry_run": True},
    "generate_entity_statistics": {},
    "process_data_export": {"user_id": "u-17", "format": "csv"},
}

_FINAL_STATES = ("Succeeded", "Failed", "TimedOut", "Cancelled", "Skipped")

#: Interval between polls of each execution (s).
_POLL_INTERVAL_SECONDS = 0.3


def run(api_url: str, clock: Clock, stop_event: threading.Event) -> None:
    """Submit the example jobs, show their progress until they end or `stop_event` is set, and print the results."""
    console = Console(file=cast(TextIO, plain_text.UnescapedStream(sys.stdout)), highlight=False)
    bars = Progress(
        TextColumn("{task.fields[job]:<28}"),
        BarColumn(),
        TextColumn("{task.fields[state]:<10}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}", markup=False),
        console=console,
    )
    with bars:
        watched = [_DemoJob(bars, api_url, job, parameters) for job, parameters in EXAMPLE_JOBS.items()]
        while any(not job.poll() for job in watched) and not clock.wait(stop_event, _POLL_INTERVAL_SECONDS):
            pass
    for job in watched:
        console.print(plain_text.to_one_line(job.describe_outcome()), markup=False, soft_wrap=True)


class _DemoJob:
    """A submitted example job and its progress bar."""

    def __init__(self, bars: Progress, api_url: str, job: str, parameters: dict[str, Any]) -> None:
        self._bars = bars
        self._job = job
        self._bar: TaskID = bars.add_task("", total=None, job=job, state="", message="")
        response = http.send_request(f"{api_url}/api/v1/jobs/{job}/executions", {"parameters": parameters})
        self._accepted = response.status == 202
        self._execution: dict[str, Any] = response.body if self._accepted else {}
        self._problem = "" if self._accepted else str(response.body)
        self._url = f"{api_url}/api/v1/executions/{self._execution.get('id')}"

    def poll(self) -> bool:
        """Read the execution and update its bar; return True when the execution will not change any more."""
        if not self._accepted:
            self._bars.update(self._bar, state="refused", total=1)
            return True
        response = http.send_request(self._url)
        if response.status == 200:
            self._execution = response.body
            self._update_bar()
        return self._execution["state"] in _FINAL_STATES

    def _update_bar(self) -> None:
        progress = self._execution.get("progress") or {}
        done, total = progress.get("done", 0), progress.get("total")
        if self._execution["state"] == "Succeeded":
            done = total = total or 1
        self._bars.update(
            self._bar,
            completed=done,
            total=total,
            state=self._execution["state"],
            message=plain_text.to_one_line(progress.get("message") or ""),
        )

    def describe_outcome(self) -> str:
        """Return one line about the outcome."""
        if not self._accepted:
            return f"{self._job}: not accepted: {self._problem}"
        state = self._execution["state"]
        if state not in _FINAL_STATES:
            return f"{self._job}: {state}; look at {self._url}"
        error = self._execution.get("error") or {}
        outcome = json.dumps(self._execution.get("result")) if state == "Succeeded" else error.get("message", "")
        return f"{self._job}: {state} {outcome}"
