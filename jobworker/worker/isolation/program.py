"""A program under a subreaper: its pipes, deadlines and end."""

import contextlib
import io
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jobworker.worker.isolation import subreaper
from jobworker.worker.isolation.deadlines import DeadlineAction, ProgramDeadlines, StopReason
from jobworker.worker.isolation.pipe_reader import LineSplitter, MessageParser

#: Interval between checks of the deadlines and of a cancellation (s).
_POLL_INTERVAL_SECONDS = 0.2

#: Time in which the subreaper may kill the program's processes, and end (s).
_SUBREAPER_EXIT_TIMEOUT_SECONDS = 10.0

_CHUNK_SIZE = 64 * 1024

#: Maximum number of reads after the end. Each pipe holds less; a process that escaped could write forever.
_MAX_FINAL_READS = 64


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits for each process of a program: bytes of memory, seconds of CPU, open files. None: the worker's limit."""

    memory: int | None = None
    cpu: int | None = None
    open_files: int | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A program to run.

    `has_message_pipe`: the program reads commands from standard input until its end, and writes messages (lines of
    JSON) to `subreaper.MESSAGE_DESCRIPTOR`. `environment` and `folder` None are the worker's own. The subreaper itself
    gets no environment, because the program could read the environment of its parent. `subreaper` explains `adopt` and
    `cleanup_commands`.
    """

    argv: Sequence[str]
    stdin: bytes = b""
    environment: Mapping[str, str] | None = None
    folder: Path | None = None
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    has_message_pipe: bool = False
    adopt: bool = True
    cleanup_commands: Sequence[Sequence[str]] = ()


class ProgramEnd(NamedTuple):
    """The end of a program: one of its exit code, the signal that killed it, and the reason why it did not start.

    `stop_reason`: why the program was terminated, or None.
    """

    exit_code: int | None
    signal: int | None
    error: str | None
    stop_reason: StopReason | None

    def __str__(self) -> str:
        if self.error is not None:
            return self.error
        if self.signal is not None:
            return f"it was killed by {get_signal_name(self.signal)}"
        return f"it ended with exit code {self.exit_code}"


class ProgramListener(Protocol):
    """The receiver of a program's output and messages."""

    def on_output(self, stream: str, line: str) -> None:
        """Handle a line on `stdout` or `stderr`."""
        ...

    def on_message(self, message: dict[str, Any]) -> None:
        """Handle a message from the message pipe."""
        ...

    def on_soft_limit(self, limit: float) -> None:
        """Handle the passing of the soft time limit (s), of which the program was notified."""
        ...


def get_signal_name(number: int) -> str:
    """Return the name of a signal: `SIGSEGV` for 11."""
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def run(program: Program, deadlines: ProgramDeadlines, listener: ProgramListener) -> ProgramEnd:
    """Run a program to its end. None of its processes is left, even if an exception ends this function."""
    running = _ProgramProcess(program, deadlines, listener)
    try:
        return running.wait()
    finally:
        running.close()


class _ProgramProcess:
    """A running program, from the worker's side."""

    def __init__(self, program: Program, deadlines: ProgramDeadlines, listener: ProgramListener) -> None:
        self._program = program
        self._deadlines = deadlines
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._report: dict[str, Any] | None = None
        self._ended = False
        self._unsent = memoryview(program.stdin)
        self._start()

    # --- start ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with contextlib.ExitStack() as child_ends:
            stdin, self._stdin = _open_input_pipe(child_ends)
            self._report_pipe, report = _open_output_pipe(child_ends)
            self._message_pipe, message_descriptor = _open_output_pipe(child_ends)
            self._subreaper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(subreaper.__file__).resolve())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=(stdin, report, message_descriptor), start_new_session=True, bufsize=0,
                cwd=self._program.folder, env={},
            )  # fmt: skip
        self._register_pipes()
        self._send_to_subreaper(json.dumps(self._build_request(stdin, report, message_descriptor)))

    def _build_request(self, stdin: int, report: int, message_descriptor: int) -> dict[str, Any]:
        program = self._program
        return {
            "argv": list(program.argv),
            "environment": dict(os.environ if program.environment is None else program.environment),  # noqa: TID251
            "stdin": stdin,
            "report": report,
            "wire": message_descriptor,
            "wired": program.has_message_pipe,
            "limits": asdict(program.limits),
            "adopt": program.adopt,
            "afterwards": [list(command) for command in program.cleanup_commands],
        }

    def _register_pipes(self) -> None:
        for pipe, take in (
            (self._subreaper.stdout, self._make_output_handler("stdout")),
            (self._subreaper.stderr, self._make_output_handler("stderr")),
            (self._report_pipe, self._make_report_handler()),
            (self._message_pipe, self._make_message_handler()),
        ):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, take)
        os.set_blocking(self._stdin.fileno(), False)
        self._selector.register(self._stdin, selectors.EVENT_WRITE)

    # --- life -------------------------------------------------------------------------------------------------

    def wait(self) -> ProgramEnd:
        """Forward the program's output and perform due actions until no process of the program is left."""
        while not self._ended:
            self._poll(_POLL_INTERVAL_SECONDS)
            for step in self._deadlines.take_due_actions():
                self._perform(step)
        for _ in range(_MAX_FINAL_READS):
            if not self._poll(0):
                break
        report = self._report or {"exit": None, "signal": None, "error": "the process that kept it was killed"}
        return ProgramEnd(report["exit"], report["signal"], report["error"], self._deadlines.stop_reason)

    def _poll(self, timeout: float) -> bool:
        """Return whether a pipe was ready."""
        ready = self._selector.select(timeout)
        for key, _ in ready:
            if key.fileobj is self._stdin:
                self._write_stdin()
            else:
                self._read(key.fileobj, key.data)
        return bool(ready)

    def _read(self, pipe: Any, handle: Callable[[bytes], None]) -> None:
        piece = pipe.read(_CHUNK_SIZE)
        if piece is not None:  # None: no data yet.
            handle(piece)
        if piece == b"":
            self._close_pipe(pipe)

    def _write_stdin(self) -> None:
        try:
            written = self._stdin.write(self._unsent[:_CHUNK_SIZE])
            self._unsent = self._unsent[written or 0 :]
        except BrokenPipeError:
            self._unsent = memoryview(b"")
        if not self._unsent:
            self._selector.unregister(self._stdin)
            if not self._program.has_message_pipe:
                self._stdin.close()

    def _close_pipe(self, pipe: Any) -> None:
        self._selector.unregister(pipe)
        pipe.close()

    # --- commands to the program ------------------------------------------------------------------------------

    def _perform(self, action: DeadlineAction) -> None:
        if action is DeadlineAction.NOTIFY_SOFT_LIMIT:
            self._listener.on_soft_limit(self._deadlines.soft or 0)
        if action is DeadlineAction.END:
            self._send_to_subreaper("end")
        elif action is DeadlineAction.TERMINATE or not self._program.has_message_pipe:
            self._send_to_subreaper(f"{signal.SIGTERM:d}")
        elif action is DeadlineAction.NOTIFY_SOFT_LIMIT:
            self._send_to_program(f"limit {self._deadlines.soft}")
        else:
            self._send_to_program("cancelled")

    def _send_to_program(self, word: str) -> None:
        if not self._unsent and not self._stdin.closed:
            self._selector.register(self._stdin, selectors.EVENT_WRITE)
        self._unsent = memoryview(bytes(self._unsent) + word.encode() + b"\n")

    def _send_to_subreaper(self, word: str) -> None:
        assert self._subreaper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._subreaper.stdin.write(word.encode() + b"\n")

    # --- output of the program --------------------------------------------------------------------------------

    def _make_output_handler(self, stream: str) -> Callable[[bytes], None]:
        lines = LineSplitter()

        def take(piece: bytes) -> None:
            for line in lines.feed(piece) if piece else lines.finish():
                self._listener.on_output(stream, line)

        return take

    def _make_message_handler(self) -> Callable[[bytes], None]:
        messages = MessageParser()

        def take(piece: bytes) -> None:
            for message in messages.feed(piece):
                self._listener.on_message(message)

        return take

    def _make_report_handler(self) -> Callable[[bytes], None]:
        messages = MessageParser()

        def take(piece: bytes) -> None:
            for message in messages.feed(piece):
                # A program that could not start is reported twice: with the reason, and as not run.
                self._report = self._report or message
            self._ended = self._ended or not piece

        return take

    # --- end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close all pipes; the subreaper then kills the remaining processes, and ends."""
        assert self._subreaper.stdin is not None
        self._subreaper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._subreaper.wait(_SUBREAPER_EXIT_TIMEOUT_SECONDS)
        for key in list(self._selector.get_map().values()):
            self._close_pipe(key.fileobj)
        self._selector.close()
        self._stdin.close()


def _open_input_pipe(child_ends: contextlib.ExitStack) -> tuple[int, io.FileIO]:
    """Return the child's end for reading, which is closed with `child_ends`, and the worker's end for writing."""
    read, write = os.pipe()
    child_ends.callback(os.close, read)
    return read, io.FileIO(write, "wb")


def _open_output_pipe(child_ends: contextlib.ExitStack) -> tuple[io.FileIO, int]:
    """Return the worker's end for reading, and the child's for writing, which is closed with `child_ends`."""
    read, write = os.pipe()
    child_ends.callback(os.close, write)
    return io.FileIO(read, "rb"), write
