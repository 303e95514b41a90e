"""The supervisor: starts processes, forwards their output, restarts those that died, stops all in order.

One thread runs one loop: `process_events` waits until a process writes, ends or is due to be restarted, or a signal
arrives, and handles that.
"""

import os
import selectors
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobworker.clock import Clock
from jobworker.orphan_reaper import OrphanReaper
from jobworker.up.output import ProcessOutput
from jobworker.up.process import ServiceProcess
from jobworker.up.procfile import Service

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Maximum wait of one iteration (s), so that a condition without a signal is checked again.
_MAX_WAIT_SECONDS = 0.25

#: Interval between repeated stop signals to a process that needs them (s).
_SIGNAL_INTERVAL_SECONDS = 1.0

#: Maximum number of SIGQUITs to a worker.
_MAX_QUIT_SIGNALS = 2

#: Timeout of each stage after a second stop signal (s).
_HURRIED_STOP_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class RestartBackoff:
    """The delays before restarts (s). A process that ran for `healthy_after` is restarted at once."""

    first_delay: float = 1.0
    max_delay: float = 60.0
    healthy_after: float = 30.0

    def compute_delay(self, failures: int) -> float:
        """Return the delay, which doubles with each failure in a row; 0 after a run that was long enough."""
        return float(min(self.first_delay * 2 ** min(failures - 1, 30), self.max_delay)) if failures else 0.0


@dataclass(frozen=True, slots=True)
class StopStage:
    """Services that are stopped together, and the timeout for it (s)."""

    names: tuple[str, ...]
    timeout: float
    #: Repeat SIGTERM, because a Redis that rewrites its append-only file for the first time ignores it.
    repeat_terminate: bool = False
    #: The services run jobs, which `SIGQUIT` interrupts.
    runs_jobs: bool = False


@dataclass(slots=True)
class _SupervisedService:
    """A service, its process, and its restarts."""

    service: Service
    environment: Mapping[str, str]
    restart: bool
    process: ServiceProcess | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    failures: int = 0
    returncode: int = 0


class Supervisor:
    """The supervisor of all services. Runs in the main thread, because it handles the signals of the process."""

    def __init__(
        self,
        reaper: OrphanReaper,
        output: ProcessOutput,
        clock: Clock,
        folder: Path,
        backoff: RestartBackoff | None = None,
    ) -> None:
        self._reaper = reaper
        self._output = output
        self._clock = clock
        self._folder = folder
        self._backoff = backoff or RestartBackoff()
        self._services: dict[str, _SupervisedService] = {}
        self._selector = selectors.DefaultSelector()
        self._stop_signal_count = 0
        self._jobs_interrupted_at = 0.0
        self._quit_signal_count = 0
        self._install_signal_handlers()

    @property
    def stop_requested(self) -> bool:
        """True after a stop signal."""
        return self._stop_signal_count > 0

    def start(self, service: Service, environment: Mapping[str, str], restart: bool = True) -> None:
        """Start `service`; restart it whenever it ends, unless `restart` is False."""
        self._services[service.name] = _SupervisedService(service, environment, restart)
        self._spawn(self._services[service.name])

    def enable_restart(self, name: str) -> None:
        """Restart this service, too, from now on."""
        self._services[name].restart = True

    def is_running(self, name: str) -> bool:
        """Return whether the service runs."""
        return self._services[name].process is not None

    def has_failed(self, name: str) -> bool:
        """Return whether the service ended by itself with an error; False if it was killed."""
        return not self.is_running(name) and self._services[name].returncode > 0

    def run(self, service: Service, environment: Mapping[str, str]) -> int:
        """Run `service` to its end; return its exit code."""
        self.start(service, environment, restart=False)
        self.wait_until(lambda: not self.is_running(service.name))
        return self._services.pop(service.name).returncode

    def wait_until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Process events until `condition` holds (True), or `seconds` have passed or a stop signal arrived (False)."""
        deadline = None if seconds is None else self._clock.monotonic() + seconds
        while not condition():
            if self.stop_requested or (deadline is not None and self._clock.monotonic() > deadline):
                return False
            self.process_events()
        return True

    def process_events(self) -> None:
        """Wait a short time for events, and handle them."""
        for key, _ in self._selector.select(self._compute_wait()):
            key.data()
        for supervised in list(self._services.values()):
            if supervised.process is not None and supervised.process.returncode is not None:
                self._handle_exit(supervised, supervised.process)
            elif supervised.restart_at is not None and supervised.restart_at <= self._clock.monotonic():
                self._spawn(supervised)

    def stop(self, stages: Iterable[StopStage]) -> bool:
        """Stop all services, stage by stage; return True if no process had to be killed.

        One more stop signal interrupts jobs and leaves the other services a few seconds, a third signal kills
        everything.
        """
        stages, first = list(stages), max(self._stop_signal_count, 1)
        running = any(self._list_alive(stage) for stage in stages if stage.runs_jobs)
        timeout = max((stage.timeout for stage in stages if stage.runs_jobs), default=0.0)
        if running:
            self._output.write_message(
                f"stopping: jobs that run have {timeout:g} s to end. "
                "Ctrl-C again interrupts them, a third one kills all"
            )
        for supervised in self._services.values():
            supervised.restart = False
            supervised.restart_at = None
        stopped = [self._stop_stage(stage, stages, first) for stage in stages]
        return all(stopped)

    def _stop_stage(self, stage: StopStage, stages: Sequence[StopStage], signals_before: int) -> bool:
        alive = [
            supervised.process
            for name in stage.names
            if (supervised := self._services.get(name)) and supervised.process
        ]
        if alive:
            waiting = " and waiting for the jobs that run" if stage.runs_jobs else ""
            self._output.write_message(f"stopping {', '.join(child.service.name for child in alive)}{waiting}")
        began = terminate_again_at = self._clock.monotonic()
        deadline = began + stage.timeout
        terminated = False
        while (
            self._list_alive(stage)
            and self._clock.monotonic() < deadline
            and self._stop_signal_count < signals_before + 2
        ):
            if self._stop_signal_count > signals_before:
                self._interrupt_jobs(stages)
                deadline = min(deadline, max(began, self._jobs_interrupted_at) + _HURRIED_STOP_TIMEOUT_SECONDS)
            if not terminated or (stage.repeat_terminate and self._clock.monotonic() >= terminate_again_at):
                terminated = True
                terminate_again_at = self._clock.monotonic() + _SIGNAL_INTERVAL_SECONDS
                for child in self._list_alive(stage):
                    child.terminate()
            self.process_events()
        return self._kill_remaining(stage)

    def _interrupt_jobs(self, stages: Sequence[StopStage]) -> None:
        """Interrupt the jobs of workers: the first `SIGQUIT` gives them some time, the second one does not."""
        now = self._clock.monotonic()
        if not self._quit_signal_count:
            self._jobs_interrupted_at = now
        if (
            self._quit_signal_count == _MAX_QUIT_SIGNALS
            or now < self._jobs_interrupted_at + self._quit_signal_count * _SIGNAL_INTERVAL_SECONDS
        ):
            return
        workers = [child for stage in stages if stage.runs_jobs for child in self._list_alive(stage)]
        if workers and not self._quit_signal_count:
            self._output.write_message("interrupting the jobs; Ctrl-C again kills all")
        self._quit_signal_count += 1
        for child in workers:
            child.interrupt()

    def _kill_remaining(self, stage: StopStage) -> bool:
        alive = self._list_alive(stage)
        for child in alive:
            self._output.write_message(f"killing {child.service.name}, which did not stop")
            child.kill()
        while self._list_alive(stage):
            self.process_events()
        return not alive

    def _list_alive(self, stage: StopStage) -> list[ServiceProcess]:
        return [
            supervised.process
            for name, supervised in self._services.items()
            if name in stage.names and supervised.process is not None
        ]

    def _spawn(self, supervised: _SupervisedService) -> None:
        again = supervised.restart_at is not None
        supervised.restart_at = None
        child = ServiceProcess(supervised.service, supervised.environment, self._folder)
        supervised.process = child
        supervised.started_at = self._clock.monotonic()
        self._update_reaper()
        self._selector.register(child.output, selectors.EVENT_READ, lambda: self._forward_output(child))
        self._output.write_message(f"{child.service.name} started{' again' if again else ''} (pid {child.pid})")
        child.start_command()

    def _forward_output(self, child: ServiceProcess) -> None:
        self._output.write_lines(child.service.name, child.read_lines())
        if child.output_closed:
            self._selector.unregister(child.output)

    def _handle_exit(self, supervised: _SupervisedService, child: ServiceProcess) -> None:
        if not child.output_closed:
            self._selector.unregister(child.output)
        self._output.write_lines(child.service.name, child.close())
        supervised.process = None
        supervised.returncode = child.returncode or 0
        self._update_reaper()
        if not supervised.restart:
            self._output.write_message(f"{child.service.name} ended ({_describe_exit(supervised.returncode)})")
            return
        now = self._clock.monotonic()
        supervised.failures = (
            0 if now - supervised.started_at >= self._backoff.healthy_after else supervised.failures + 1
        )
        delay = self._backoff.compute_delay(supervised.failures)
        supervised.restart_at = now + delay
        when = f"in {delay:g} s" if delay else "at once"
        file = self._output.get_log_path(child.service.name)
        ended = "died" if supervised.returncode else "ended unexpectedly"
        self._output.write_message(
            f"{child.service.name} {ended} ({_describe_exit(supervised.returncode)}), see {file}; restarting {when}"
        )

    def _update_reaper(self) -> None:
        self._reaper.set_groups(
            supervised.process.pid for supervised in self._services.values() if supervised.process is not None
        )

    def _compute_wait(self) -> float:
        now = self._clock.monotonic()
        waits = [
            supervised.restart_at - now for supervised in self._services.values() if supervised.restart_at is not None
        ]
        return max(0.0, min([_MAX_WAIT_SECONDS, *waits]))

    def _install_signal_handlers(self) -> None:
        """Install handlers that count stop signals and wake a waiting `select`."""
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        self._selector.register(wake, selectors.EVENT_READ, lambda: os.read(wake, 4096))
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _STOP_SIGNALS:
            # With `nohup jobworker up` the services survive the end of the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._count_stop_signal)

    def _count_stop_signal(self, *_: object) -> None:
        self._stop_signal_count += 1


def _describe_exit(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    return f"killed by {signal.Signals(-returncode).name}"
