"""The subreaper: runs one program and lets none of its processes survive the program's end or the worker's.

The worker starts it by its path with a bare interpreter (`python -I -S subreaper.py`), one for each program; it imports
only the standard library. Standard input contains first the request, one line of JSON:

    argv         the command; `argv[0]` is looked up on PATH
    environment  of the program, and of the cleanup commands
    stdin        descriptor that becomes the program's standard input
    wire, wired  descriptor for messages, and whether it becomes the program's descriptor 3
    report       descriptor to which the subreaper writes how the program ended
    limits       {"memory": bytes, "cpu": seconds, "open_files": number}, each of them optional
    adopt        whether processes that the program leaves are killed, even in another session
    afterwards   cleanup commands, run when the program did not end by itself

and then control messages, one a line: a number is the signal to send to the program's process group, `end` kills the
program. The end of standard input means the end of the worker, and the program is killed at once. The report is one
line of JSON: {"exit": exit code, "signal": the signal that killed it, "error": why it did not start}, two of them null.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
from collections.abc import Mapping
from typing import Any, NoReturn

#: Descriptor at which a program finds the pipe for its messages.
MESSAGE_DESCRIPTOR = 3

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

#: Pause between two rounds of killing (s); a process that was forked meanwhile is found in the next round.
_KILL_INTERVAL_SECONDS = 0.01

#: Maximum number of rounds; a process that cannot be killed (it hangs in the kernel, or belongs to another user) is
#: left.
_MAX_KILL_ROUNDS = 500

#: Timeout of one cleanup command (s).
_CLEANUP_TIMEOUT_SECONDS = 30.0

_CHUNK_SIZE = 64 * 1024


class Subreaper:
    """The supervision of one program, from its start to the end of its last descendant."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._prctl = _prctl()
        self._wakeup_descriptor = _install_child_wakeup()
        self._status: int | None = None
        if request["adopt"]:
            # Orphans of the program become children of this process, even if they opened a session of their own.
            self._prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._pid = self._start()

    def supervise(self, control_messages: "ControlMessages") -> dict[str, Any]:
        """Send the requested signals until the program has ended or has to; return the report."""
        for word in control_messages.pending:
            self._send_signal(word)
        while self._status is None and not control_messages.ended:
            ready, _, _ = select.select([0, self._wakeup_descriptor], [], [])
            if self._wakeup_descriptor in ready:
                self._reap()
            if 0 in ready and self._status is None:
                for word in control_messages.read():
                    self._send_signal(word)
        by_itself = self._status is not None
        self._kill_all()
        if not by_itself:
            self._clean_up()
        return self._make_report()

    def _send_signal(self, number: str) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, int(number))

    def _start(self) -> int:
        own_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_program(own_pid)
        # The program's pipes are closed here, so that they end with the program.
        for descriptor in (self._request["stdin"], self._request["wire"]):
            os.close(descriptor)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        return pid

    def _become_program(self, parent_pid: int) -> NoReturn:
        request = self._request
        try:
            os.setsid()
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent_pid:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in _IGNORED_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            for name in ("stdin", "wire", "report"):
                os.set_inheritable(request[name], False)
            os.dup2(request["stdin"], 0)
            _apply_limits(request["limits"])
            if request["wired"]:
                os.dup2(request["wire"], MESSAGE_DESCRIPTOR)
            os.execvpe(request["argv"][0], request["argv"], request["environment"])
        except BaseException as error:  # noqa: BLE001  after any error this process must not continue as a subreaper
            why = getattr(error, "strerror", None) or str(error)
            _write_report(request["report"], {"exit": None, "signal": None, "error": f"{request['argv'][0]}: {why}"})
        os._exit(127)

    def _reap(self) -> bool:
        """Reap the child processes that have ended; return False if no child is left."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup_descriptor, _CHUNK_SIZE)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._pid:
                    self._status = ended[1]
        except ChildProcessError:
            return False
        return True

    def _kill_all(self) -> None:
        for _ in range(_MAX_KILL_ROUNDS):
            if self._status is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._pid, signal.SIGKILL)
            if self._request["adopt"]:
                for pid in find_descendants(os.getpid()):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
            if not self._reap() or (self._status is not None and not self._request["adopt"]):
                return
            select.select([self._wakeup_descriptor], [], [], _KILL_INTERVAL_SECONDS)

    def _clean_up(self) -> None:
        silence = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        for command in self._request["afterwards"]:
            with contextlib.suppress(OSError):
                pid = os.posix_spawnp(command[0], command, self._request["environment"], file_actions=silence)
                _wait_for_exit(pid, self._wakeup_descriptor)

    def _make_report(self) -> dict[str, Any]:
        code = os.waitstatus_to_exitcode(self._status) if self._status is not None else -signal.SIGKILL
        return {"exit": code if code >= 0 else None, "signal": -code if code < 0 else None, "error": None}


#: Signals for the worker, or from a program that signals whole groups, which the subreaper ignores.
_IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1)


def find_descendants(ancestor: int) -> list[int]:
    """Return the pids of all descendants of a process that the system shows."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                below.setdefault(_read_parent(name), []).append(int(name))
    descendants, unvisited = [], [ancestor]
    while unvisited:
        children = below.get(unvisited.pop(), [])
        descendants += children
        unvisited += children
    return descendants


def _read_parent(pid: str) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        # The name, in parentheses, may contain any characters.
        return int(stat.read().rpartition(")")[2].split()[1])


def _wait_for_exit(pid: int, wakeup_descriptor: int) -> None:
    for _ in range(int(_CLEANUP_TIMEOUT_SECONDS / _KILL_INTERVAL_SECONDS)):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        select.select([wakeup_descriptor], [], [], _KILL_INTERVAL_SECONDS)
        with contextlib.suppress(BlockingIOError):
            os.read(wakeup_descriptor, _CHUNK_SIZE)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _prctl() -> Any:
    # On other systems only the process group can be killed.
    return getattr(ctypes.CDLL(None), "prctl", lambda *_: 0)


def _install_child_wakeup() -> int:
    """Return a descriptor that becomes readable when a child has ended."""
    readable, writable = os.pipe()
    for descriptor in (readable, writable):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return readable


def _apply_limits(limits: Mapping[str, Any]) -> None:
    _set_limit(resource.RLIMIT_CORE, 0)
    if limits.get("memory"):
        # The program's own data; mapped libraries and address space that is only reserved do not count.
        _set_limit(resource.RLIMIT_DATA, limits["memory"])
    if limits.get("open_files"):
        _set_limit(resource.RLIMIT_NOFILE, limits["open_files"])
    if limits.get("cpu"):
        _set_limit(resource.RLIMIT_CPU, limits["cpu"])


def _set_limit(which: int, limit: int) -> None:
    _, allowed = resource.getrlimit(which)
    bound = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
    # CPU time: SIGXCPU comes at the soft limit and names the cause; SIGKILL, which comes at the hard limit, does not.
    spare = 1 if which == resource.RLIMIT_CPU and bound != allowed else 0
    resource.setrlimit(which, (bound, bound + spare))


class ControlMessages:
    """The lines of standard input.

    `ended`: the worker sent `end`, or has ended. `pending`: messages that arrived with the request.
    """

    def __init__(self) -> None:
        self._partial_line = b""
        self.ended = False
        self.pending: list[str] = []

    def read(self) -> list[str]:
        """Return the messages that have arrived; waits for the first piece."""
        chunk = os.read(0, _CHUNK_SIZE)
        *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
        words = [line.decode() for line in lines]
        if not chunk or "end" in words:
            self.ended = True
            words = words[: words.index("end")] if "end" in words else words
        return words

    def read_request(self) -> dict[str, Any] | None:
        """Return the request, which is the first line; None if the worker ended before it sent one."""
        while not self.ended:
            first, *self.pending = self.read() or [""]
            if first:
                request: dict[str, Any] = json.loads(first)
                return request
        return None


def _write_report(descriptor: int, report: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, json.dumps(report).encode() + b"\n")


def main() -> None:
    """Read the request, run the program, write the report."""
    messages = ControlMessages()
    request = messages.read_request()
    if request is not None:
        _write_report(request["report"], Subreaper(request).supervise(messages))


if __name__ == "__main__":
    main()
