"""Supervisor with small processes."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobworker.clock import SystemClock
from jobworker.orphan_reaper import OrphanReaper
from jobworker.up.output import ProcessOutput
from jobworker.up.procfile import Service
from jobworker.up.supervisor import RestartBackoff, StopStage, Supervisor
from tests.polling import TIMEOUT_SECONDS
from tests.up_process import is_alive, list_group_members


def _make_python_service(name: str, code: str) -> Service:
    return Service(name, shlex.join([sys.executable, "-u", "-c", code]))


class _InProcessSupervisor(Supervisor):
    """Supervisor in the process of the test."""

    def __init__(self, folder: Path, backoff: RestartBackoff | None = None) -> None:
        self.reaper = OrphanReaper()
        super().__init__(self.reaper, ProcessOutput(SystemClock(), [], folder / "logs"), SystemClock(), folder, backoff)

    def stop_service(self, name: str, patience: float = TIMEOUT_SECONDS, insist: bool = False) -> bool:
        """Stop a single service."""
        return self.stop([StopStage((name,), patience, insist)])


OutputCapture = pytest.CaptureFixture[str]
SupervisorFactory = Callable[..., _InProcessSupervisor]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[SupervisorFactory]:
    """Function that returns supervisors; the wakeup descriptor of signals is reset afterwards."""
    with contextlib.ExitStack() as reapers:

        def start(backoff: RestartBackoff | None = None) -> _InProcessSupervisor:
            supervisor = _InProcessSupervisor(tmp_path, backoff)
            reapers.enter_context(supervisor.reaper)
            return supervisor

        yield start
    signal.set_wakeup_fd(-1)


def _turn_until(supervisor: Supervisor, capsys: OutputCapture, text: str, times: int = 1) -> str:
    seen = ""

    def said() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return seen.count(text) >= times

    assert supervisor.wait_until(said, TIMEOUT_SECONDS), f"no {text!r} in {seen}"
    return seen


def test_dead_service_is_restarted_with_growing_delays(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make(RestartBackoff(first_delay=0.01, max_delay=0.03))
    supervisor.start(_make_python_service("web", "print('hello'); raise SystemExit(3)"), os.environ)

    said = _turn_until(supervisor, capsys, "died (exit code 3)", times=4)

    pauses = [line.rpartition(" in ")[2] for line in said.splitlines() if "died" in line]
    assert pauses[:4] == ["0.01 s", "0.02 s", "0.03 s", "0.03 s"]
    assert "web | hello" in said
    assert "web started again" in said


def test_healthy_service_restarts_at_once(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make(RestartBackoff(first_delay=0.01, healthy_after=0.0))
    supervisor.start(_make_python_service("web", "pass"), os.environ)

    said = _turn_until(supervisor, capsys, "ended unexpectedly", times=3)

    assert said.count("restarting at once") == said.count("ended unexpectedly")


def test_signal_that_killed_a_service_is_named(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make()
    supervisor.start(_make_python_service("web", "import os; os.kill(os.getpid(), 9)"), os.environ)

    _turn_until(supervisor, capsys, "web died (killed by SIGKILL)")


def test_last_line_without_newline_is_printed(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make()
    code = supervisor.run(
        _make_python_service("once", "import sys; sys.stdout.write('a\\nb'); sys.exit(7)"), os.environ
    )

    lines = [line.partition("| ")[2] for line in capsys.readouterr().out.splitlines() if " once | " in line]
    assert code == 7
    assert lines == ["a", "b"]


def test_stopped_service_is_not_restarted(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make(RestartBackoff(first_delay=0.01))
    supervisor.start(_make_python_service("web", "import signal; print('up'); signal.pause()"), os.environ)
    said = _turn_until(supervisor, capsys, "| up")
    pid = int(said.partition("(pid ")[2].partition(")")[0])

    assert supervisor.stop_service("web") is True
    assert not is_alive(pid)
    assert not supervisor.is_running("web")


def test_service_that_does_not_stop_is_killed_with_its_children(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make()
    stubborn = "import signal,subprocess; signal.signal(15, signal.SIG_IGN); subprocess.Popen(['sleep', '600']);"
    supervisor.start(_make_python_service("web", stubborn + "print('up'); signal.pause()"), os.environ)
    said = _turn_until(supervisor, capsys, "| up")
    group = int(said.partition("(pid ")[2].partition(")")[0])
    assert len(list_group_members(group)) == 2

    assert supervisor.stop_service("web", patience=0.05) is False
    assert list_group_members(group) == set()


def test_children_of_a_dead_service_are_killed(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make(RestartBackoff(first_delay=600.0))
    supervisor.start(_make_python_service("web", "import subprocess; subprocess.Popen(['sleep', '600'])"), os.environ)

    said = _turn_until(supervisor, capsys, "ended unexpectedly")

    group = int(said.partition("(pid ")[2].partition(")")[0])
    assert supervisor.wait_until(lambda: not list_group_members(group), TIMEOUT_SECONDS)


def test_service_that_ignores_the_first_signal_is_signaled_again(
    make: SupervisorFactory, capsys: OutputCapture
) -> None:
    refuses = "import signal,sys; h=[]; signal.signal(15, lambda *a: h.append(1) if not h else sys.exit(0));"
    supervisor = make()
    supervisor.start(_make_python_service("redis", refuses + "print('up')\nwhile True: signal.pause()"), os.environ)
    _turn_until(supervisor, capsys, "| up")

    assert supervisor.stop_service("redis", insist=True) is True


def test_large_output_is_passed_on_completely(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make()
    supervisor.run(_make_python_service("once", "for i in range(30000): print('line', i)"), os.environ)

    lines = [line.partition("| ")[2] for line in capsys.readouterr().out.splitlines() if " once | " in line]
    assert lines == [f"line {i}" for i in range(30000)]


def test_killed_orphan_reaper_is_replaced(make: SupervisorFactory, capsys: OutputCapture) -> None:
    supervisor = make(RestartBackoff(first_delay=0.01))
    supervisor.reaper._shell.kill()
    supervisor.reaper._shell.wait()

    supervisor.start(_make_python_service("web", "import signal; print('up'); signal.pause()"), os.environ)

    _turn_until(supervisor, capsys, "| up")
    assert supervisor.reaper._shell.poll() is None
