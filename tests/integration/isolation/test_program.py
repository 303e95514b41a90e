"""Programs under a supervising process, without a worker."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobworker.clock import SystemClock
from jobworker.worker.isolation.deadlines import ProgramDeadlines, StopReason
from jobworker.worker.isolation.pipe_reader import MAX_OUTPUT_SIZE
from jobworker.worker.isolation.program import Program, ProgramEnd, ResourceLimits, run
from tests.polling import wait_until

MIB = 1024**2
CLOCK = SystemClock()


class ProgramRecorder:
    """Recorder of the output and the messages of a program."""

    def __init__(self, on_message: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        self.lines: list[tuple[str, str]] = []
        self.messages: list[dict[str, Any]] = []
        self._on_message = on_message

    def on_output(self, stream: str, line: str) -> None:
        self.lines.append((stream, line))

    def on_message(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._on_message(message)

    def on_soft_limit(self, limit: float) -> None:
        self.lines.append(("warned", f"{limit:g}"))


def make_python_program(code: str, **options: Any) -> Program:
    """Return a program that runs Python code."""
    return Program([sys.executable, "-I", "-S", "-c", textwrap.dedent(code)], **options)


def run_program(program: Program, recorder: ProgramRecorder | None = None, **limits: Any) -> ProgramEnd:
    """Run a program that starts at once."""
    deadlines = ProgramDeadlines(CLOCK, **limits)
    deadlines.start()
    return run(program, deadlines, recorder or ProgramRecorder())


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def test_program_receives_stdin_and_its_output_is_recorded() -> None:
    notes = ProgramRecorder()
    program = Program(["/bin/sh", "-c", "cat; echo problem >&2; exit 3"], stdin=b"given\n")
    end = run_program(program, notes)
    assert end == ProgramEnd(3, None, None, None)
    assert sorted(notes.lines) == [("stderr", "problem"), ("stdout", "given")]


def test_program_with_large_input_and_output_does_not_block() -> None:
    notes = ProgramRecorder()
    assert run_program(Program(["cat"], stdin=b"0123456789abcde\n" * 20_000), notes).exit_code == 0
    assert notes.lines == [("stdout", "0123456789abcde")] * 20_000


def test_program_may_ignore_its_stdin() -> None:
    assert run_program(Program(["true"], stdin=b"x" * 10**6)).exit_code == 0


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["/no/such/program"], "/no/such/program: No such file or directory"),
        (["/etc/passwd"], "/etc/passwd: Permission denied"),
        (["sh", "-c", "kill -SEGV $$"], "it was killed by SIGSEGV"),
        (["sh", "-c", "exit 127"], "it ended with exit code 127"),
    ],
)
def test_program_end_is_described(argv: list[str], why: str) -> None:
    assert str(run_program(Program(argv))) == why


def test_program_has_only_the_given_environment() -> None:
    notes = ProgramRecorder()
    assert run_program(Program(["env"], environment={"PATH": "/usr/bin:/bin", "A": "b"}), notes).exit_code == 0
    assert sorted(notes.lines) == [("stdout", "A=b"), ("stdout", "PATH=/usr/bin:/bin")]


def test_program_inherits_no_descriptor_of_the_worker() -> None:
    notes = ProgramRecorder()
    with open(__file__, encoding="utf-8") as stream:
        os.set_inheritable(stream.fileno(), True)
        run_program(make_python_program("import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"), notes)
    assert notes.lines == [("stdout", "[0, 1, 2]")]


def test_memory_is_limited() -> None:
    program = make_python_program(
        """
        kept = bytearray(50 * 1024 ** 2)
        try:
            more = bytearray(500 * 1024 ** 2)
        except MemoryError:
            print("refused")
        """,
        limits=ResourceLimits(memory=200 * MIB),
    )
    notes = ProgramRecorder()
    assert run_program(program, notes).exit_code == 0
    assert notes.lines == [("stdout", "refused")]


def test_cpu_time_is_limited() -> None:
    assert run_program(make_python_program("while True: pass", limits=ResourceLimits(cpu=1))).signal == signal.SIGXCPU


def test_open_files_are_limited_and_core_dumps_disabled() -> None:
    notes = ProgramRecorder()
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CORE))"
    assert run_program(make_python_program(code, limits=ResourceLimits(open_files=40)), notes).exit_code == 0
    assert notes.lines == [("stdout", "(40, 40) (0, 0)")]


#: Code that starts two descendants that ignore signals, and prints their ids: one in its group, one in its own session.
STUBBORN_PROGRAM = """
import os, signal, sys, time

signal.signal(signal.SIGTERM, signal.SIG_IGN)
for leave in (False, True):
    if os.fork() == 0:
        if os.fork() == 0:
            if leave:
                os.setsid()
            os.write(int(sys.argv[1]) if len(sys.argv) > 1 else 1, f"{os.getpid()}\\n".encode())
            time.sleep(600)
        os._exit(0)
    os.wait()
"""


def test_hard_limit_kills_a_program_that_ignores_sigterm_and_forks() -> None:
    notes = ProgramRecorder()
    end = run_program(make_python_program(STUBBORN_PROGRAM + "time.sleep(600)"), notes, hard=1.0)
    assert (end.signal, end.stop_reason) == (signal.SIGKILL, StopReason.HARD_LIMIT)
    family = [int(line) for _, line in notes.lines]
    assert len(family) == 2
    assert not any(is_alive(pid) for pid in family)


def test_descendants_end_with_their_program() -> None:
    notes = ProgramRecorder()
    assert run_program(make_python_program(STUBBORN_PROGRAM + "time.sleep(0.5)"), notes).exit_code == 0
    family = [int(line) for _, line in notes.lines]
    assert len(family) == 2
    assert not any(is_alive(pid) for pid in family)


def test_program_and_descendants_end_with_a_killed_worker(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers"
    program = f"""
    import os, sys
    sys.argv[1:] = [str(os.open({str(numbers)!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND))]
    """
    code = textwrap.dedent(program) + STUBBORN_PROGRAM + "time.sleep(600)"
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from tests.integration.isolation.test_program import make_python_program, run_program\n"
            "run_program(make_python_program(sys.argv[1]))",
            code,
        ]
    )
    wait_until(lambda: numbers.exists() and numbers.read_text().count("\n") == 2, what="two descendants")
    family = [int(line) for line in numbers.read_text().split()]
    assert all(is_alive(pid) for pid in family)
    worker.kill()
    worker.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in family), what="the end of the family")


def test_program_ends_when_the_worker_is_interrupted() -> None:
    class SignalingRecorder(ProgramRecorder):
        def on_output(self, stream: str, line: str) -> None:
            super().on_output(stream, line)
            if len(self.lines) == 2:
                raise KeyboardInterrupt

    notes = SignalingRecorder()
    with pytest.raises(KeyboardInterrupt):
        run_program(make_python_program(STUBBORN_PROGRAM + "time.sleep(600)"), notes)
    assert not any(is_alive(int(line)) for _, line in notes.lines)


def test_cancelled_program_ends_on_sigterm() -> None:
    cancel_requests: list[bool] = []

    class CancellingRecorder(ProgramRecorder):
        def on_output(self, stream: str, line: str) -> None:
            super().on_output(stream, line)
            cancel_requests.append(True)

    notes = CancellingRecorder()
    program = Program(["sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done"])
    end = run_program(program, notes, cancelled=lambda: bool(cancel_requests))
    assert (end.exit_code, end.stop_reason) == (5, None)
    assert [line for stream, line in notes.lines if stream == "stdout"] == ["ready", "bye"]


def test_program_with_channel_sends_and_receives_messages() -> None:
    cancel_requests: list[bool] = []
    program = make_python_program(
        """
        import os, sys
        os.write(3, b'{"said": 1}\\nno message\\n')
        for line in sys.stdin:
            os.write(3, b'{"heard": "%s"}\\n' % line.strip().encode())
            if line == "cancelled\\n":
                break
        """,
        stdin=b"order\n",
        has_message_pipe=True,
    )
    notes = ProgramRecorder(on_message=lambda message: cancel_requests.append(True))
    assert run_program(program, notes, cancelled=lambda: bool(cancel_requests)).exit_code == 0
    assert notes.messages == [{"said": 1}, {"heard": "order"}, {"heard": "cancelled"}]


@pytest.mark.parametrize(
    "command", ["head -c 1000000000 /dev/zero", "yes | head -c 1000000000"], ids=["one line", "short lines"]
)
def test_gigabyte_of_output_is_read_and_truncated(command: str) -> None:
    class OutputCounter:
        kept = lines = 0
        last = ""

        def on_output(self, stream: str, line: str) -> None:
            self.kept += len(line)
            self.lines += 1
            self.last = line

        def on_message(self, message: dict[str, Any]) -> None: ...

        def on_soft_limit(self, limit: float) -> None: ...

    scales = OutputCounter()
    deadlines = ProgramDeadlines(CLOCK)
    deadlines.start()
    assert run(Program(["sh", "-c", command]), deadlines, scales).exit_code == 0
    assert scales.kept <= MAX_OUTPUT_SIZE + 100
    assert scales.lines < 200_000
    assert "were printed and are not kept" in scales.last


def test_cleanup_commands_run_after_the_worker_is_killed(tmp_path: Path) -> None:
    done, ready = tmp_path / "done", tmp_path / "ready"
    script = f"import signal; open({str(ready)!r}, 'w'); signal.pause()"
    order = json.dumps([sys.executable, "-I", "-S", "-c", script])
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import json, sys\n"
            "from tests.integration.isolation.test_program import Program, run_program\n"
            "run_program(Program(json.loads(sys.argv[1]), cleanup_commands=[['touch', sys.argv[2]]]))",
            order,
            str(done),
        ]
    )
    wait_until(ready.exists)
    worker.kill()
    worker.wait()
    wait_until(done.exists, what="what was to be done afterwards")


def test_cleanup_commands_do_not_run_after_success(tmp_path: Path) -> None:
    done = tmp_path / "done"
    assert run_program(Program(["true"], cleanup_commands=[["touch", str(done)]])).exit_code == 0
    assert not done.exists()
