"""Keeps processes running: starts them, prints what they say, restarts those that died, stops them in order.

One thread and one loop: `turn` waits until a process writes, ends or is due to be restarted, or a
signal comes, and deals with it.
"""

import os
import selectors
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobworker.clock import Clock
from jobworker.guardian import Guardian
from jobworker.up.child import Child
from jobworker.up.output import Output
from jobworker.up.procfile import Service

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: A turn waits no longer than this (s), so that a condition which nobody signals is looked at again.
_LONGEST_TURN = 0.25

#: How often a process that must be insisted on is asked again to stop (s).
_INSIST_EVERY = 1.0

#: How often a worker is told to interrupt its jobs.
_QUITS = 2

#: How long each stage may take to stop after a second signal (s).
_HURRY = 20.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a restart (s). A process that lived for `healthy_after` is started again at once."""

    first: float = 1.0
    longest: float = 60.0
    healthy_after: float = 30.0

    def delay(self, deaths: int) -> float:
        """Return the pause, which doubles with each death in a row; none after a life that was long enough."""
        return float(min(self.first * 2 ** min(deaths - 1, 30), self.longest)) if deaths else 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """Services that are stopped together, and how long they may take (s)."""

    names: tuple[str, ...]
    patience: float
    #: A Redis that rewrites its append-only file for the first time refuses: ask it again and again.
    insist: bool = False
    #: They run jobs: `SIGQUIT` interrupts these.
    runs_jobs: bool = False


@dataclass(slots=True)
class _Kept:
    """A service, and how it fares."""

    service: Service
    environment: Mapping[str, str]
    restart: bool
    child: Child | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    deaths: int = 0
    returncode: int = 0


class Supervisor:
    """Lives in the main thread, because it takes over the signals of the process."""

    def __init__(
        self, guardian: Guardian, output: Output, clock: Clock, folder: Path, backoff: Backoff | None = None
    ) -> None:
        self._guardian = guardian
        self._output = output
        self._clock = clock
        self._folder = folder
        self._backoff = backoff or Backoff()
        self._kept: dict[str, _Kept] = {}
        self._selector = selectors.DefaultSelector()
        self._interrupts = 0
        self._hurried_at = 0.0
        self._quits = 0
        self._take_signals()

    @property
    def asked_to_stop(self) -> bool:
        """True once a signal said so."""
        return self._interrupts > 0

    def start(self, service: Service, environment: Mapping[str, str], restart: bool = True) -> None:
        """Start `service`; whenever it ends start it again, unless `restart` is False."""
        self._kept[service.name] = _Kept(service, environment, restart)
        self._spawn(self._kept[service.name])

    def keep(self, name: str) -> None:
        """From now on restart this one too."""
        self._kept[name].restart = True

    def running(self, name: str) -> bool:
        """True while it is alive."""
        return self._kept[name].child is not None

    def failed(self, name: str) -> bool:
        """Whether it ended by itself with an error; not: it was killed."""
        return not self.running(name) and self._kept[name].returncode > 0

    def run(self, service: Service, environment: Mapping[str, str]) -> int:
        """Run `service` to its end; its exit code."""
        self.start(service, environment, restart=False)
        self.wait_until(lambda: not self.running(service.name))
        return self._kept.pop(service.name).returncode

    def wait_until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Go on turning until `condition` holds (True), `seconds` have passed or a signal says stop (False)."""
        deadline = None if seconds is None else self._clock.monotonic() + seconds
        while not condition():
            if self.asked_to_stop or (deadline is not None and self._clock.monotonic() > deadline):
                return False
            self.turn()
        return True

    def turn(self) -> None:
        """Wait for something to happen, not for long, and deal with it."""
        for key, _ in self._selector.select(self._until_next_restart()):
            key.data()
        for kept in list(self._kept.values()):
            if kept.child is not None and kept.child.returncode is not None:
                self._bury(kept, kept.child)
            elif kept.restart_at is not None and kept.restart_at <= self._clock.monotonic():
                self._spawn(kept)

    def stop(self, stages: Iterable[Stage]) -> bool:
        """Stop everything, stage by stage; True if nothing had to be killed.

        One more signal interrupts jobs and leaves the others a few seconds, a third one kills everything.
        """
        stages, first = list(stages), max(self._interrupts, 1)
        running = any(self._alive(stage) for stage in stages if stage.runs_jobs)
        patience = max((stage.patience for stage in stages if stage.runs_jobs), default=0.0)
        if running:
            self._output.say(
                f"stopping: jobs that run have {patience:g} s to end. "
                "Ctrl-C again interrupts them, a third one kills all"
            )
        for kept in self._kept.values():
            kept.restart = False
            kept.restart_at = None
        gently = [self._stop_stage(stage, stages, first) for stage in stages]
        return all(gently)

    def _stop_stage(self, stage: Stage, stages: Sequence[Stage], first: int) -> bool:
        alive = [kept.child for name in stage.names if (kept := self._kept.get(name)) and kept.child]
        if alive:
            waiting = " and waiting for the jobs that run" if stage.runs_jobs else ""
            self._output.say(f"stopping {', '.join(child.service.name for child in alive)}{waiting}")
        began = ask_again_at = self._clock.monotonic()
        deadline = began + stage.patience
        asked = False
        while self._alive(stage) and self._clock.monotonic() < deadline and self._interrupts < first + 2:
            if self._interrupts > first:
                self._interrupt_jobs(stages)
                deadline = min(deadline, max(began, self._hurried_at) + _HURRY)
            if not asked or (stage.insist and self._clock.monotonic() >= ask_again_at):
                asked = True
                ask_again_at = self._clock.monotonic() + _INSIST_EVERY
                for child in self._alive(stage):
                    child.terminate()
            self.turn()
        return self._kill_what_is_left(stage)

    def _interrupt_jobs(self, stages: Sequence[Stage]) -> None:
        """Have workers interrupt their jobs: the first `SIGQUIT` gives these some time, the second one does not."""
        now = self._clock.monotonic()
        if not self._quits:
            self._hurried_at = now
        if self._quits == _QUITS or now < self._hurried_at + self._quits * _INSIST_EVERY:
            return
        workers = [child for stage in stages if stage.runs_jobs for child in self._alive(stage)]
        if workers and not self._quits:
            self._output.say("interrupting the jobs; Ctrl-C again kills all")
        self._quits += 1
        for child in workers:
            child.interrupt()

    def _kill_what_is_left(self, stage: Stage) -> bool:
        left = self._alive(stage)
        for child in left:
            self._output.say(f"killing {child.service.name}, which did not stop")
            child.kill()
        while self._alive(stage):
            self.turn()
        return not left

    def _alive(self, stage: Stage) -> list[Child]:
        return [kept.child for name, kept in self._kept.items() if name in stage.names and kept.child is not None]

    def _spawn(self, kept: _Kept) -> None:
        again = kept.restart_at is not None
        kept.restart_at = None
        child = Child(kept.service, kept.environment, self._folder)
        kept.child = child
        kept.started_at = self._clock.monotonic()
        self._tell_guardian()
        self._selector.register(child.output, selectors.EVENT_READ, lambda: self._listen(child))
        self._output.say(f"{child.service.name} started{' again' if again else ''} (pid {child.pid})")
        child.go()

    def _listen(self, child: Child) -> None:
        self._output.lines(child.service.name, child.read_lines())
        if child.silent:
            self._selector.unregister(child.output)

    def _bury(self, kept: _Kept, child: Child) -> None:
        if not child.silent:
            self._selector.unregister(child.output)
        self._output.lines(child.service.name, child.close())
        kept.child = None
        kept.returncode = child.returncode or 0
        self._tell_guardian()
        if not kept.restart:
            self._output.say(f"{child.service.name} ended ({_ending(kept.returncode)})")
            return
        now = self._clock.monotonic()
        kept.deaths = 0 if now - kept.started_at >= self._backoff.healthy_after else kept.deaths + 1
        delay = self._backoff.delay(kept.deaths)
        kept.restart_at = now + delay
        when = f"in {delay:g} s" if delay else "at once"
        file = self._output.file(child.service.name)
        ended = "died" if kept.returncode else "ended, and nobody had stopped it"
        self._output.say(f"{child.service.name} {ended} ({_ending(kept.returncode)}), see {file}; restarting {when}")

    def _tell_guardian(self) -> None:
        self._guardian.watch(kept.child.pid for kept in self._kept.values() if kept.child is not None)

    def _until_next_restart(self) -> float:
        now = self._clock.monotonic()
        waits = [kept.restart_at - now for kept in self._kept.values() if kept.restart_at is not None]
        return max(0.0, min([_LONGEST_TURN, *waits]))

    def _take_signals(self) -> None:
        """Signals count interrupts, and wake a `select` that is waiting."""
        wake, waker = os.pipe()
        for end in (wake, waker):
            os.set_blocking(end, False)
        self._selector.register(wake, selectors.EVENT_READ, lambda: os.read(wake, 4096))
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _STOP_SIGNALS:
            # `nohup jobworker up` means that the end of the terminal is not the end of this.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._interrupt)

    def _interrupt(self, *_: object) -> None:
        self._interrupts += 1


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    return f"killed by {signal.Signals(-returncode).name}"
