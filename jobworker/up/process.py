"""A child process: started in a group of its own, its output collected, killed with all its descendants."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from jobworker.up.procfile import Service

#: The child waits for a line: if the supervisor dies before it registered the child with the orphan reaper, the child
#: ends by itself.
_WAIT_FOR_START = "read -r go || exit 1\nexec </dev/null\n"

_CHUNK_SIZE = 64 * 1024

#: Maximum length of a line (bytes). Longer lines are cut, so that a process that never ends its line cannot fill the
#: memory.
_MAX_LINE_SIZE = 1024 * 1024

#: Beginning of the rest of a cut line, so that it does not look like another record.
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
        """The process id, which is also the number of its process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while the process runs; negative: the signal that killed it."""
        return self._process.poll()

    def start_command(self) -> None:
        """Let the child start its command."""
        with suppress(BrokenPipeError):
            self._start_pipe.write(b"go\n")
            self._start_pipe.close()

    def read_lines(self) -> list[bytes]:
        """Return the whole lines written since the last call. Sets `output_closed` when there will be no more."""
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
        """Return the available output; None: none at present, empty: the output is closed."""
        try:
            return os.read(self.output.fileno(), _CHUNK_SIZE)
        except BlockingIOError:
            return None

    def terminate(self) -> None:
        """Send SIGTERM to the process only, because a worker stops its own child processes."""
        if self.returncode is None:
            self._process.terminate()

    def interrupt(self) -> None:
        """Send SIGQUIT to a worker, which then interrupts its jobs."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGQUIT)

    def kill(self) -> None:
        """Kill the process and all processes in its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> list[bytes]:
        """Kill the remaining processes after the end of this one, and return its last lines."""
        self.kill()
        # A descendant that left the group may hold the pipe open: read the available output without waiting.
        text = self._partial_line
        while chunk := self._read():
            text += chunk
        self.output.close()
        return text.removesuffix(b"\n").split(b"\n") if text else []
