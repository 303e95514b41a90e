"""The startup banner: waits until the system is ready, then prints its addresses and an example."""

import sys
import threading
from typing import Any, NamedTuple

from jobworker.clock import Clock
from jobworker.settings import mask_password
from jobworker.up import demo, http
from jobworker.up.output import ProcessOutput

#: Interval between readiness checks, and between messages on failing checks (s).
_POLL_INTERVAL_SECONDS = 0.3
_PROGRESS_INTERVAL_SECONDS = 30.0

_BANNER = """
  JobWorker is ready.

    API        {api}/api/v1
    docs       {api}/docs
    schedules  jobworker schedules list
    Flower     {flower}
    database   {database}
    Redis      {redis}
    logs       {logs} (a file for each process; here are warnings and errors)

  Try it:

    {example}

  Ctrl-C stops everything.
"""

#: Example command for the example jobs, and for other jobs.
_EXAMPLE = """curl -s -X POST {api}/api/v1/jobs/generate_entity_statistics/executions \\
      -H 'Content-Type: application/json' -H 'Prefer: wait=10' -d '{{}}'"""
_LIST_JOBS_EXAMPLE = "curl -s {api}/api/v1/jobs"


class Endpoints(NamedTuple):
    """The addresses of the services; None if the Procfile has no such service."""

    api: str | None
    flower: str | None
    #: Location of Flower's password.
    flower_password: str
    database_url: str


class StartupBanner:
    """The banner, which runs in a thread of its own beside the supervisor's loop."""

    def __init__(
        self, endpoints: Endpoints, redis_url: str, output: ProcessOutput, clock: Clock, stop_event: threading.Event
    ) -> None:
        self._endpoints = endpoints
        self._redis_url = redis_url
        self._output = output
        self._clock = clock
        self._stop_event = stop_event

    def run(self, with_demo: bool) -> None:
        """Wait until the system is ready, print the banner, and run the demo if requested."""
        if not self._wait_until_ready():
            return
        sys.stdout.write(self._render())
        sys.stdout.flush()
        if with_demo and self._endpoints.api:
            demo.run(self._endpoints.api, self._clock, self._stop_event)

    def _wait_until_ready(self) -> bool:
        complain_at = self._clock.monotonic() + _PROGRESS_INTERVAL_SECONDS
        while not self._clock.wait(self._stop_event, _POLL_INTERVAL_SECONDS):
            response = http.send_request(f"{self._endpoints.api}/readyz")
            if response.status == 200:
                return True
            if self._clock.monotonic() > complain_at:
                complain_at += _PROGRESS_INTERVAL_SECONDS
                self._output.write_message(
                    f"not ready yet: {_describe_failing_checks(response)} (all output: {self._output.folder})"
                )
        return False

    def _render(self) -> str:
        flower = f"{self._endpoints.flower} (user jobworker, password: {self._endpoints.flower_password})"
        has_example_jobs = (
            http.send_request(f"{self._endpoints.api}/api/v1/jobs/generate_entity_statistics").status == 200
        )
        return _BANNER.format(
            api=self._endpoints.api,
            example=(_EXAMPLE if has_example_jobs else _LIST_JOBS_EXAMPLE).format(api=self._endpoints.api),
            flower=flower if self._endpoints.flower else "not in the Procfile",
            database=mask_password(self._endpoints.database_url),
            redis=mask_password(self._redis_url),
            logs=self._output.folder,
        )


def _describe_failing_checks(response: http.ApiResponse) -> str:
    """Return the failing checks, by name."""
    if not isinstance(response.body, dict) or not isinstance(response.body.get("checks"), dict):
        return (
            f"the API responds: {response.body}" if response.status else f"the API does not respond ({response.body})"
        )
    failing = {name: check for name, check in response.body["checks"].items() if not _is_passing(check)}
    return "; ".join(f"{name}: {_get_detail(check)}" for name, check in failing.items())


def _is_passing(check: Any) -> bool:
    return isinstance(check, dict) and check.get("status") == "ok"


def _get_detail(check: Any) -> str:
    return str(check.get("detail", check)) if isinstance(check, dict) else str(check)
