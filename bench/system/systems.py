"""Compared systems on one machine: JobWorker with web, relay and worker, and Celery with a worker."""

import contextlib
import http.client
import json
import os
import sqlite3
import subprocess
import sys
from typing import Any

from bench.harness import Harness, get_redis_url, wait_until
from tests.servers import find_free_port


class JobWorkerStack(Harness):
    """JobWorker on one machine: web, relay, worker and SQLite."""

    def start(self) -> None:
        """Start all processes and wait until a no-op can be submitted."""
        self.broker = self.start_redis("redis")
        port = find_free_port()
        self.database = self.folder / "jobworker.db"
        environment = {
            "JOBWORKER_HOME": str(self.folder),
            "JOBWORKER_BIND": f"127.0.0.1:{port}",
            "JOBWORKER_REDIS_URL": get_redis_url(self.broker),
            "JOBWORKER_TASKS": "bench.jobs",
            "JOBWORKER_LOG_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "jobworker.cli", "db", "upgrade"]
        subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
        self.start_python("web", ["-m", "jobworker.cli", "web"], **environment)
        self.start_python("relay", ["-m", "jobworker.cli", "relay"], **environment)
        self.start_python("worker", _make_worker_command("jobworker"), **environment)
        self.http = HttpClient(port)
        wait_until(lambda: self.http.request("GET", "/readyz")[1]["checks"]["workers"]["status"] == "ok")
        wait_until(lambda: self.http.request("GET", "/api/v1/jobs/noop")[0] == 200)

    def count_final(self) -> int:
        """Return the number of executions that are Succeeded in SQL."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            query = "SELECT count(*) FROM executions WHERE state = 'Succeeded'"
            return int(connection.execute(query).fetchone()[0])

    def query_latencies(self) -> list[float]:
        """Return the times (s) from accepted to started of all executions."""
        query = "SELECT (julianday(started_at) - julianday(created_at)) * 86400 FROM executions"
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return [float(row[0]) for row in connection.execute(query)]


class CeleryStack(Harness):
    """Celery alone."""

    def start(self) -> None:
        """Start Redis and the worker, and wait until the worker responds."""
        self.broker = self.start_redis("redis")
        environment = {"BARE_BROKER": get_redis_url(self.broker)}
        self.start_python("worker", _make_worker_command("bench.system.baseline"), **environment)
        os.environ.update(environment)
        from bench.system import baseline  # The module reads the broker's address on import.

        self.app = baseline
        wait_until(lambda: baseline.app.control.ping(timeout=1))

    def is_done(self) -> bool:
        """Return whether no message is queued or in flight."""
        return self.broker.llen("bare") == 0 and self.broker.hlen("unacked") == 0


def _make_worker_command(app: str) -> list[str]:
    """Return the command of a worker for either system: two processes, few logs."""
    return ["-m", "celery", "-A", app, "worker", "--concurrency", "2", "--loglevel", "WARNING"]


class HttpClient:
    """HTTP client with one persistent connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def request(self, method: str, path: str, body: Any = None, **more: str) -> tuple[int, Any]:
        """Send a request with the headers `more`; return status and JSON of the response, or (0, {}) if it failed."""
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json", **more} if content else more
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            return response.status, json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return 0, {}

    def submit(self, path: str, body: Any) -> None:
        """Send a POST, again if the server closed the idle connection; raises `RuntimeError` unless it gets 202."""
        status, answer = self.request("POST", path, body)
        if status == 0:
            status, answer = self.request("POST", path, body)
        if status != 202:
            raise RuntimeError(f"the submission was refused: {status} {answer}")

    def submit_and_wait(self, path: str, body: Any) -> None:
        """Send a POST; raises `RuntimeError` unless the execution ends within the maximum wait of a request."""
        status, answer = self.request("POST", path, body, Prefer="wait=30")
        if status != 200:
            raise RuntimeError(f"the execution did not end in time: {status} {answer}")
