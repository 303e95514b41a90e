"""One child process: started in a group of its own, its output collected, ended with all its offspring."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from jobworker.up.procfile import Service

#: The child waits for a word: should the supervisor die before it told the guardian, the child ends by itself.
_WAIT_FOR_START = "read -r go || exit 1\nexec </dev/null\n"

_CHUNK_SIZE = 64 * 1024

#: A line longer than this is cut, so that a process that never ends its line cannot fill our memory (bytes).
_MAX_LINE_SIZE = 1024 * 1024

#: What comes after a cut begins with this, so that it does not look like another record.
_CONTINUATION_INDENT = b"    "


class ServiceProcess:
    """A running service."""

    def __init__(self, service: Service, environment: Mapping[str, str], folder: Path) -> None:
        self.service = service
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WAIT_FOR_START + service.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            cwd=folder,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._start_pipe = self._process.stdin
        self.output = self._process.stdout
        os.set_blocking(self.output.fileno(), False)
        self._partial_line = b""
        self.output_closed = False

    @property
    def pid(self) -> int:
        """Also the number of its process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative: killed by that signal."""
        return self._process.poll()

    def start_command(self) -> None:
        """Let it begin."""
        with suppress(BrokenPipeError):
            self._start_pipe.write(b"go\n")
            self._start_pipe.close()

    def read_lines(self) -> list[bytes]:
        """What it wrote since last time, in whole lines. Sets `silent` when there will be no more."""
        chunk = self._read()
        if chunk is None:
            return []
        self.output_closed = not chunk
        *lines, self._partial_line = (self._partial_line + chunk).split(b"\n")
        if self._partial_line and (self.output_closed or len(self._partial_line) > _MAX_LINE_SIZE):
            lines.append(self._partial_line)
            self._partial_line = b"" if self.output_closed else _CONTINUATION_INDENT
        return lines

    def _read(self) -> bytes | None:
        """None: nothing at present. Empty: nothing any more."""
        try:
            return os.read(self.output.fileno(), _CHUNK_SIZE)
        except BlockingIOError:
            return None

    def terminate(self) -> None:
        """Ask it to stop. Only the process itself: a worker shuts its own children down."""
        if self.returncode is None:
            self._process.terminate()

    def interrupt(self) -> None:
        """Ask a worker to stop without waiting for its jobs, which are told."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGQUIT)

    def kill(self) -> None:
        """End it, and everything it started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> list[bytes]:
        """After its end: kill what it left behind, and return its last lines."""
        self.kill()
        # An offspring that left the group may hold the pipe open: take what is there and wait for nobody.
        text = self._partial_line
        while chunk := self._read():
            text += chunk
        self.output.close()
        return text.removesuffix(b"\n").split(b"\n") if text else []
