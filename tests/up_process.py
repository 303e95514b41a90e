"""`jobworker up` as a user runs it: in a folder with a Procfile, as a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.polling import wait_until
from tests.servers import find_free_port

ROOT = Path(__file__).parent.parent


def is_alive(pid: int) -> bool:
    """Return whether the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def list_group_members(*groups: int) -> set[int]:
    """Return the pids of live processes in these process groups."""
    members = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_alive(int(entry.name)):
            try:
                if os.getpgid(int(entry.name)) in groups:
                    members.add(int(entry.name))
            except ProcessLookupError:
                continue
    return members


class UpProcess:
    """A running `jobworker up`. Its orphan reaper ends the services when it is killed."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.home = folder / "var"
        self._log = folder / "up.log"
        self._seen = self._log.stat().st_size if self._log.exists() else 0
        self.environment = make_environment(folder, environment)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobworker.cli", "up", *arguments],
                cwd=folder if (folder / "Procfile").exists() else ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """The output of this process so far."""
        return self._log.read_bytes()[self._seen :].decode()

    def wait_for_output(self, text: str, times: int = 1, within: float = 60.0) -> None:
        """Wait until the output contains `text` the given number of times."""

        def said() -> bool:
            if self.output.count(text) >= times:
                return True
            assert self.process.poll() is None, f"ended without saying {text!r}:\n{self.output}"
            return False

        try:
            wait_until(said, within, what=f"{text!r} from jobworker up")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def list_service_pids(self) -> dict[str, int]:
        """Return the process id of each service's latest start."""
        pids = {}
        for line in self.output.splitlines():
            if " started" in line and "(pid " in line:
                name = line.partition("| ")[2].split()[0]
                pids[name] = int(line.rpartition("(pid ")[2].rstrip(")"))
        return pids

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor only."""
        self.process.send_signal(number)

    def wait_for_exit(self, within: float = 90.0) -> int:
        """Wait for the end of the process and return its exit code."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {within:g} s:\n{self.output}") from None

    def stop(self) -> int:
        """Send SIGINT, as Ctrl-C does, and wait for the exit code."""
        self.send_signal(signal.SIGINT)
        return self.wait_for_exit()

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self.process.kill()
        self.process.wait()


def make_environment(folder: Path, overrides: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which `jobworker up` uses free ports and stores everything in `folder`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JOBWORKER_")}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "JOBWORKER_HOME": str(folder / "var"),
        "JOBWORKER_BIND": f"127.0.0.1:{find_free_port()}",
        "JOBWORKER_FLOWER_BIND": f"127.0.0.1:{find_free_port()}",
        **overrides,
    }
