"""Fork server of a test process: starts Python programs in real processes whose imports are done already.

Importing Celery, SQLAlchemy and JobWorker takes a second of CPU time, and the tests start hundreds of processes. The
server imports them once and forks a process for each program; the program's own modules (`jobworker.celery`, jobs,
schedules) are imported after the fork, with the program's environment.
"""

import array
import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

#: Modules that programs import. `jobworker.celery` is not among them, because it reads the environment.
_PRELOADED_MODULES = (
    "alembic.command",
    "billiard.popen_fork",
    "billiard.sharedctypes",
    "billiard.synchronize",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.app.routes",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.strategy",
    "jobworker.cli.common",
    "jobworker.declare.classes",
    "jobworker.relay.loop",
    "jobworker.store.migrate",
    "jobworker.transport.beat.scheduler",
    "jobworker.up.discovery",
    "jobworker.web",
    "jobworker.worker.bootstrap",
    "jobworker.worker.builtin.container",
    "jobworker.worker.builtin.http",
    "jobworker.worker.builtin.shell",
    "jobworker.worker.celery.consumer",
    "jobworker.worker.celery.events",
    "kombu.transport.redis",
    "logging.config",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "tzdata.zoneinfo",
    "urllib3",
)

_MAX_REQUEST_BYTES = 256 * 1024

#: Variables that Python and Celery read before the fork, except for the one that the server itself sets.
_READ_BEFORE_FORK = re.compile(r"(?!PYTHONUNBUFFERED$)(?:PYTHON|CELERY_)")


class _Request(NamedTuple):
    """A program to run: the arguments of Python, the environment, and descriptors for stdin and output."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    stdin: int
    output: int


class ForkedProcess:
    """A process that the fork server started, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, client: "ForkServerClient", pid: int, stdin: int) -> None:
        self._client = client
        self.pid = pid
        self.stdin = os.fdopen(stdin, "wb", buffering=0)
        self.exit_code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None: the process has not ended."""
        return self._client.wait(self, 0.0)

    def wait(self, timeout: float) -> int:
        """Wait until the process has ended, and return its exit code. Raises `subprocess.TimeoutExpired`."""
        code = self._client.wait(self, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServerClient:
    """Client of a fork server, which is started with the first program and ends with this process."""

    def __init__(self) -> None:
        self._owner = 0
        self._socket: socket.socket | None = None
        #: Processes that have not ended, by pid: later processes may get the pid of one that has.
        self._processes: dict[int, ForkedProcess] = {}
        self._started_pid: int | None = None

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], output: int) -> ForkedProcess:
        """Run Python with these arguments (`-m module ...`) in a session of its own."""
        server = self._connect()
        reader, writer = os.pipe()
        try:
            message = json.dumps([list(arguments), dict(environment)]).encode()
            rights = array.array("i", [reader, output])
            server.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:
            os.close(reader)
        while (pid := self._started_pid) is None:
            self._receive(None)
        self._started_pid = None
        process = self._processes[pid] = ForkedProcess(self, pid, writer)
        return process

    def wait(self, process: ForkedProcess, timeout: float) -> int | None:
        """Wait at most `timeout` seconds until a process has ended, and return its exit code if it has."""
        deadline = time.monotonic() + timeout
        while process.exit_code is None and self._receive(max(0.0, deadline - time.monotonic())):
            pass
        return process.exit_code

    def _connect(self) -> socket.socket:
        if self._socket is None or self._owner != os.getpid():
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, "-u", "-m", "tests.fork_server", str(theirs.fileno())]
            subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
            theirs.close()
            self._socket, self._owner = ours, os.getpid()
            self._processes = {}
        return self._socket

    def _receive(self, timeout: float | None) -> bool:
        assert self._socket is not None
        if not select.select([self._socket], [], [], timeout)[0]:
            return False
        message = self._socket.recv(_MAX_REQUEST_BYTES)
        if not message:
            raise ConnectionError("the fork server has ended")
        kind, *values = json.loads(message)
        if kind == "started":
            self._started_pid = values[0]
        else:
            self._processes.pop(values[0]).exit_code = values[1]
        return True


client = ForkServerClient()


def can_run(environment: Mapping[str, str]) -> bool:
    """Return whether the server can run a program: on Linux, with the settings with which it imported its modules."""
    before, now = (
        {name: value for name, value in variables.items() if _READ_BEFORE_FORK.match(name)}
        for variables in (os.environ, environment)
    )
    return sys.platform == "linux" and before == now


def _serve(server: socket.socket) -> _Request | None:
    """Fork a process for each request; return the request in the child, and None when the client has ended."""
    wakeup_reader, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_writer)
    while True:
        ready, _, _ = select.select([server.fileno(), wakeup_reader], [], [])
        if wakeup_reader in ready:
            os.read(wakeup_reader, 4096)
            _report_ended(server)
        if server.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(server, _MAX_REQUEST_BYTES, 2)
        if not message:
            return None
        request = _Request(*json.loads(message), *descriptors)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (wakeup_reader, wakeup_writer, server.detach()):
                os.close(descriptor)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        server.send(json.dumps(["started", pid]).encode())


def _report_ended(server: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            server.send(json.dumps(["ended", pid, os.waitstatus_to_exitcode(status)]).encode())


def _become(request: _Request) -> str:
    """Make this process look like a new one, and return the module to run."""
    os.setsid()
    os.dup2(request.stdin, 0)
    os.dup2(request.output, 1)
    os.dup2(request.output, 2)
    for descriptor in (request.stdin, request.output):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request.environment)
    flag, module, *arguments = request.arguments
    assert flag == "-m"
    sys.argv = [module, *arguments]
    return module


def main() -> None:
    """Serve the requests that arrive on the socket whose descriptor is the argument."""
    server = socket.socket(fileno=int(sys.argv[1]))
    for module in _PRELOADED_MODULES:
        importlib.import_module(module)
    gc.freeze()
    request: Any = _serve(server)
    if request is not None:
        runpy.run_module(_become(request), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
